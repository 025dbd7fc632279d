"""From a folder, a manifest or a mapping to domains."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from kinfold.corpora import SPLITS, Corpora, CorporaSettings, load_corpora, require_domains
from kinfold.errors import ConfigError, CorpusError, InputError, InputTypeError


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows(prefix: str, count: int = 50, **more: Any) -> list[dict[str, Any]]:
    return [{"text": f"{prefix} number {number}", **more} for number in range(count)]


def test_a_folder_of_files_and_sub_folders(tmp_path: Path) -> None:
    write(tmp_path / "news.v2.jsonl", rows("news"))
    write(tmp_path / "legal" / "part1.jsonl", rows("legal one"))
    write(tmp_path / "legal" / "deep" / "part2.json", rows("legal two"))
    write(tmp_path / "_General.jsonl", rows("general"))
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "LICENSE.txt").write_text("about")
    (tmp_path / "corpora.yaml").write_text("a: b")
    (tmp_path / ".hidden.jsonl").write_text("{")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "a.png").write_bytes(b"\x89PNG")
    corpora = load_corpora(tmp_path)
    assert corpora.names == ("_General", "legal", "news.v2")
    assert [domain.name for domain in corpora.planned] == ["legal", "news.v2"]
    assert [domain.name for domain in corpora.general] == ["_General"]
    assert [path.name for path in corpora["legal"].paths] == ["part2.json", "part1.jsonl"]
    assert sum(1 for _ in corpora["legal"].records()) == 100
    assert sorted(note.partition(":")[0] for note in corpora.ignored) == [
        "LICENSE.txt",
        "README.md",
        "corpora.yaml",
        "figures",
    ]
    assert "legal" in corpora
    assert "nothing" not in corpora
    assert [domain.name for domain in corpora] == list(corpora.names)
    assert len(corpora) == 3


def test_the_toy_corpora_load(toy_corpora: Path) -> None:
    corpora = load_corpora(str(toy_corpora))
    assert corpora.names == ("engine", "garden", "general", "harbour", "kitchen")
    assert len(corpora.planned) == 4
    summary = corpora.scan()
    assert all(sum(domain.documents.values()) == 60 for domain in summary.domains)
    assert all(domain.kinds == {"text": 60} for domain in summary.domains)
    assert summary.warnings == ()
    assert json.loads(json.dumps(summary.to_dict()))["domains"][0]["name"] == "engine"


def test_the_shared_data_load(shared_data: Path) -> None:
    prose = load_corpora(shared_data / "prose").scan()
    assert len(prose.domains) == 10
    assert {name: sum(d.documents.values()) for d in prose.domains for name in [d.name]}["legal"] == 446
    reviews = load_corpora(shared_data / "reviews").scan()
    assert len(reviews.domains) == 16
    assert all(list(domain.labels) == ["0", "1"] and domain.documents["test"] == 400 for domain in reviews.domains)


def test_files_named_after_splits(tmp_path: Path) -> None:
    write(tmp_path / "a" / "train.jsonl", rows("train"))
    write(tmp_path / "a" / "val.jsonl", rows("val", 5))
    write(tmp_path / "a" / "test-00000-of-00001.jsonl", rows("test", 7))
    write(tmp_path / "b" / "train.jsonl", rows("only"))
    write(tmp_path / "c" / "test" / "x.jsonl", rows("inside", 3, split="train"))
    write(tmp_path / "c" / "train" / "x.jsonl", rows("inside too", 4))
    write(tmp_path / "train.jsonl", rows("a domain that is called train"))
    corpora = load_corpora(tmp_path)

    def counts(name: str) -> list[int]:
        return [sum(1 for _ in corpora[name].records(split)) for split in SPLITS]

    assert counts("a") == [50, 5, 7]
    # Nothing but training files: some text is held out all the same.
    assert sum(counts("b")) == 50
    assert min(counts("b")) > 0
    # The file's split stands above the record's.
    assert counts("c") == [4, 0, 3]
    assert min(counts("train")) > 0
    with pytest.raises(
        CorpusError, match=r"test-00000-of-00001 and train and val, so it looks like one domain"
    ) as caught:
        load_corpora(tmp_path / "a")
    assert "give the folder above it" in str(caught.value)


def test_one_document_a_file_in_a_folder_of_texts(tmp_path: Path) -> None:
    for number in range(3):
        path = tmp_path / "letters" / f"{number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"Dear {number},\n\nfarewell.\n")
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "book.txt").write_text("one\n\ntwo\n\nthree")
    corpora = load_corpora(tmp_path)
    assert list(corpora["letters"].texts()) == [f"Dear {number},\n\nfarewell." for number in range(3)]
    assert list(corpora["book"].texts()) == ["one", "two", "three"]


def test_splits_by_content_hold_when_everything_else_changes(tmp_path: Path) -> None:
    texts = [f"text {number}\r\nsecond line" for number in range(300)]
    write(tmp_path / "one" / "a.jsonl", [{"text": text} for text in texts])
    shuffled = texts + texts[:100]
    random.Random(3).shuffle(shuffled)
    half = len(shuffled) // 2
    write(tmp_path / "two" / "a" / "x.jsonl", [{"text": text.replace("\r", ""), "id": 1} for text in shuffled[:half]])
    (tmp_path / "two" / "a" / "y.csv").write_text(
        "".join(["text\n", *(f'"{text}  "\n' for text in shuffled[half:])]), newline=""
    )

    def sides(folder: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for record in load_corpora(tmp_path / folder)["a"].records():
            assert found.setdefault(record.key, record.split) == record.split
        return found

    one = sides("one")
    assert len(one) == 300
    assert sides("two") == one
    assert set(one.values()) == set(SPLITS)


def test_records_can_be_read_again_and_by_split(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", rows("a", 200))
    domain = load_corpora(tmp_path)["a"]
    everything = list(domain.records())
    assert list(domain.records()) == everything
    for split in SPLITS:
        assert list(domain.records(split)) == [record for record in everything if record.split == split]
    assert list(domain.texts("test")) == [record.plain for record in everything if record.split == "test"]
    with pytest.raises(InputError, match="split='dev' is not known"):
        domain.records("dev")


def test_limit_counts_in_each_split(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [row for split in SPLITS for row in rows(split, 20, split=split)])
    domain = load_corpora(tmp_path, limit=7)["a"]
    assert [sum(1 for _ in domain.records(split)) for split in SPLITS] == [7, 7, 7]
    assert sum(1 for _ in domain.records()) == 21
    assert [record.text for record in domain.records("test")] == [f"test number {number}" for number in range(7)]
    assert sum(1 for _ in domain.records("train", limit=3)) == 3
    assert sum(1 for _ in domain.records("train", limit=30)) == 7


def test_a_limit_ends_the_reading(tmp_path: Path) -> None:
    # What lies behind the limit is never looked at: there it is broken.
    good = "".join(json.dumps(row) + "\n" for split in SPLITS for row in rows(split, 20, split=split))
    (tmp_path / "a.jsonl").write_bytes(good.encode() + b"{}\n\xff\n")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "train.jsonl").write_bytes(
        "".join(json.dumps(row) + "\n" for row in rows("b", 9)).encode() + b"\xff"
    )
    write(tmp_path / "b" / "test.jsonl", rows("test", 9))
    corpora = load_corpora(tmp_path, limit=5)
    assert [sum(1 for _ in corpora[name].records()) for name in "ab"] == [15, 10]
    assert corpora["a"].bad == 0
    assert corpora.scan().bad == 0
    assert sum(1 for _ in corpora["a"].records("test", limit=2)) == 2
    assert load_corpora(tmp_path, limit=5, strict=True).names == ("a", "b")
    with pytest.raises(CorpusError, match="not UTF-8"):
        load_corpora(tmp_path).scan()


def test_samples_do_not_depend_on_the_order(tmp_path: Path) -> None:
    everything = rows("a", 400, split="train")
    write(tmp_path / "one" / "a.jsonl", everything)
    write(tmp_path / "two" / "a.jsonl", everything[::-1])
    one, two = load_corpora(tmp_path / "one")["a"], load_corpora(tmp_path / "two")["a"]

    def drawn(domain: Any, size: int, seed: int) -> list[str]:
        return [record.text for record in domain.sample(size, seed=seed)]

    assert drawn(one, 50, 0) == drawn(two, 50, 0)
    assert drawn(one, 50, 0)[:20] == drawn(one, 20, 0)
    assert len(set(drawn(one, 50, 0))) == 50
    assert set(drawn(one, 50, 0)) != set(drawn(one, 50, 1))
    assert sorted(drawn(one, 1000, 0)) == sorted(row["text"] for row in everything)
    assert drawn(one, 0, 0) == []
    # Uniform: over 200 seeds each record is drawn 25 times on average; 5 standard deviations.
    counts = dict.fromkeys((row["text"] for row in everything), 0)
    for seed in range(200):
        for text in drawn(one, 50, seed):
            counts[text] += 1
    assert max(abs(count - 25) for count in counts.values()) < 25


def test_fingerprints_follow_the_content(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows("a"))
    first = load_corpora(tmp_path)["a"]
    fingerprint = first.fingerprint
    other = tmp_path / "elsewhere"
    write(other / "renamed.jsonl", rows("a"))
    assert load_corpora(other)["renamed"].fingerprint == fingerprint
    assert load_corpora(tmp_path, test=0.2)["a"].fingerprint != fingerprint
    assert load_corpora(tmp_path, limit=3)["a"].fingerprint != fingerprint
    assert load_corpora({"a": {"path": path, "unlabelled": True}})["a"].fingerprint != fingerprint
    assert load_corpora(tmp_path, strict=True).fingerprints["a"] == fingerprint
    # The cache is left when the file changes, even where its size does not.
    stamp = path.stat().st_mtime_ns
    path.write_text(path.read_text().replace("a number 7", "b number 7"))
    os.utime(path, ns=(stamp + 10**9, stamp + 10**9))
    assert first.fingerprint != fingerprint


MANIFEST = """\
# comment
news:
  path: raw/news.jsonl
  text: [title, body]
  weight: 5e-1
legal: {path: raw/legal.csv, text: clause, label: kind, split: fold}
chat: {path: raw/chat.json, messages: talk, limit: 2}
held: {path: raw/news.jsonl, text: body, split: test}
shards: {path: "raw/shard-*.jsonl", validation: 0, test: 0.5}
web: {path: [raw/shard-0.jsonl, raw/shard-1.jsonl], general: true}
loose: {path: raw/shard-0.jsonl, unlabelled: true}
short: raw/shard-1.jsonl
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    write(tmp_path / "raw" / "news.jsonl", [{"title": f"T{n}", "body": f"B{n}"} for n in range(9)])
    (tmp_path / "raw" / "legal.csv").write_text("clause,kind,fold\none,x,train\ntwo,y,dev\n")
    talk = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]
    (tmp_path / "raw" / "chat.json").write_text(json.dumps([{"talk": talk, "split": "train"}] * 5))
    for number in range(2):
        write(tmp_path / "raw" / f"shard-{number}.jsonl", rows(f"shard {number}", 40, label=1))
    path = tmp_path / "corpora.yaml"
    path.write_text(MANIFEST)
    return path


def test_a_manifest(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    corpora = load_corpora(manifest)
    assert corpora.names == ("chat", "held", "legal", "loose", "news", "shards", "short", "web")
    assert corpora["news"].weight == 0.5
    assert next(corpora["news"].texts()) == "T0\n\nB0"
    assert [(record.text, record.label, record.split) for record in corpora["legal"].records()] == [
        ("one", "x", "train"),
        ("two", "y", "validation"),
    ]
    assert [record.kind for record in corpora["chat"].records()] == ["chat"] * 2
    assert {record.split for record in corpora["held"].records()} == {"test"}
    assert sum(1 for _ in corpora["shards"].records()) == 80
    assert sum(1 for _ in corpora["shards"].records("validation")) == 0
    assert 20 <= sum(1 for _ in corpora["shards"].records("test")) <= 60
    assert [domain.name for domain in corpora.general] == ["web"]
    assert [domain.name for domain in corpora.unlabelled] == ["loose"]
    assert {record.kind for record in corpora["loose"].records()} == {"text"}
    assert {record.kind for record in corpora["short"].records()} == {"labelled"}


def test_corpora_travel_as_plain_values(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(manifest.parent)
    corpora = load_corpora("corpora.yaml")
    again = json.loads(json.dumps(corpora.to_dict()))
    monkeypatch.chdir("/")
    other = Corpora.from_dict(again)
    assert other.fingerprints == load_corpora(manifest).fingerprints
    assert [domain.weight for domain in other] == [domain.weight for domain in corpora]
    assert list(other["held"].texts("test")) == list(load_corpora(manifest)["held"].texts("test"))


def test_a_mapping_says_the_same(manifest: Path) -> None:
    root = manifest.parent
    given = {
        "short": root / "raw" / "shard-1.jsonl",
        "news": {"path": str(root / "raw" / "news.jsonl"), "text": ["title", "body"]},
        "both": [root / "raw" / "shard-0.jsonl", root / "raw" / "shard-1.jsonl"],
    }
    corpora, named = load_corpora(given), load_corpora(manifest)
    for name in ("short", "news"):
        assert corpora[name].fingerprint == named[name].fingerprint
    assert sum(1 for _ in corpora["both"].records()) == 80
    relative = load_corpora({"short": "raw/shard-1.jsonl"}, base=root)
    assert relative["short"].fingerprint == named["short"].fingerprint


def test_a_scan_counts_duplicates_and_leaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = (
        rows("a", 30, split="train")
        + rows("a", 4, split="test")
        + rows("b", 6, split="test")
        + rows("b", 2, split="test")
    )
    write(tmp_path / "a.jsonl", given)
    write(tmp_path / "b.jsonl", rows("c", 50) * 2)
    summary = load_corpora(tmp_path).scan()
    assert [(found.duplicates, found.leaked) for found in summary.domains] == [(6, 4), (50, 0)]
    assert any("results will flatter: a 4 of 12; remove" in line for line in summary.warnings)
    assert any("b: 50 of 100 records are duplicates" in line for line in summary.warnings)
    # With less room than contents: an estimate, still near.
    monkeypatch.setattr("kinfold.corpora.summary._Twins.MOST", 300)
    write(tmp_path / "b.jsonl", rows("d", 5000) * 2)
    assert load_corpora(tmp_path).scan().domains[1].duplicates == pytest.approx(5000, rel=0.25)


def test_files_in_sub_folders_that_are_no_corpus_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a" / "x.jsonl", rows("a"))
    (tmp_path / "a" / "notes.md").write_text("x")
    (tmp_path / "a" / "README.txt").write_text("x")
    assert load_corpora(tmp_path).ignored == (
        "a/README.txt: about the data, not of them",
        "a/notes.md: not of a known format",
    )


def test_two_domains_are_needed_to_relate(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", rows("a"))
    write(tmp_path / "general.jsonl", rows("general"))
    with pytest.raises(CorpusError, match=r"only one domain \(a\) beside 1 general or unlabelled; .* at least 2"):
        require_domains(load_corpora(tmp_path))
    with pytest.raises(CorpusError, match="no domain"):
        require_domains(Corpora(()))
    write(tmp_path / "b.jsonl", rows("b"))
    require_domains(load_corpora(tmp_path))


def test_unknown_domain_and_wrong_source() -> None:
    with pytest.raises(InputError, match="no domain 'x'"):
        Corpora(())["x"]
    with pytest.raises(InputTypeError, match="given as int"):
        load_corpora(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"strict": 1}, "corpora.strict=1"),
        ({"limit": 0}, "corpora.limit=0"),
        ({"limit": True}, "corpora.limit=True"),
        ({"validation": 1.0}, "corpora.validation=1.0"),
        ({"test": float("nan")}, "corpora.test=nan"),
        ({"test": -0.1}, "corpora.test=-0.1"),
        ({"validation": 0.5, "test": 0.5}, "leaves nothing to train on"),
    ],
)
def test_settings_cannot_exist_wrong(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CorporaSettings(**values)
