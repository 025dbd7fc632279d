"""Every kind of bad input gets one sentence that names the place and the remedy."""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import tracemalloc
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from kinfold.corpora import _streams, load_corpora
from kinfold.errors import CorpusError, InputError

GOOD = b'{"text": "a good record"}\n'


def _parquet(columns: dict[str, list[object]]) -> bytes:
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), out)
    return out.getvalue()


def fails(source: object, **options: object) -> str:
    with pytest.raises(CorpusError) as caught:
        load_corpora(source, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in message
    assert message.endswith((".", "?"))
    return message


def folder(tmp_path: Path, **files: bytes) -> Path:
    for name, data in files.items():
        (tmp_path / name.replace("_dot_", ".")).write_bytes(data)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b"", "a.jsonl: holds no record; fill the file or remove it."),
        ("a.jsonl", b" \n\n", "a.jsonl: holds no record"),
        ("a.json", b"[]", "a.json: holds no record"),
        ("a.csv", b"text\n", "a.csv: holds no record"),
        ("a.txt", b"\xef\xbb\xbf \n", "a.txt: holds no record"),
        ("a.jsonl", b'[1, 2]\n"x"\n', "a.jsonl:1: the line is a list, not an object; write one JSON object a line."),
        ("a.jsonl", b'"x"\n', "a.jsonl:1: the line is a string, not an object; write one JSON object a line."),
        ("a.jsonl", b'{"text": "a"\n', "a.jsonl:1: the line is not valid JSON"),
        ("a.jsonl", b'{"text": NaN}\n', "a.jsonl:1: the line is not valid JSON (NaN is not JSON)"),
        ("a.jsonl", b'{"headline": "long words", "id": 1}\n', "no text among the fields 'headline', 'id'"),
        ("a.json", b'[{"text": "a"},\n{"text": }]', "a.json, line 2: not valid JSON"),
        ("a.json", b'[{"text": "a"}', "a.json, line 1: expected ',' or ']', found the end of the file"),
        ("a.json", b'[{"text": "a"}] x', "more text follows"),
        ("a.json", b'["a", "b"]', "a.json:1: the item is a string, not an object"),
        ("a.json", b'{"a": [{"text": "x"}], "b": [{"text": "y"}]}', "several lists of objects"),
        ("a.json", b'{"text": ["x", "y"], "label": [1]}', "column 'label' ends after 1 rows but 'text' goes on"),
        ("a.csv", b"a,b\n1,2\n", "a.csv:2: no text among the fields 'a', 'b'"),
        ("a.csv", b"text,text\n1,2\n", "the header names 'text' twice"),
        ("a.csv", b'text\n"open\n', "a.csv, line 2: not valid CSV"),
        ("a.csv", b"text,n\nplain, comma, here,3\n", "a.csv:2: the row has 4 fields, the header 2"),
        ("a.jsonl", GOOD + b'{"text": "caf\xe9"}\n', "line 2: byte 0xe9 at offset 39 is not UTF-8"),
        ("a.csv", b"text\ncaf\xe9\n", "line 2: byte 0xe9 at offset 8 is not UTF-8"),
        ("a.json", b'[{"text":\n\n"caf\xe9"}]', "line 3: byte 0xe9 at offset 15 is not UTF-8"),
        ("a.txt", b"abc\xff\xfe", "line 1: byte 0xff at offset 3 is not UTF-8"),
        ("a.txt", "text".encode("utf-16"), "UTF-16"),
        ("a.txt", b"a\0b", "is binary"),
        (
            "a.parquet",
            _parquet({"headline": ["some words"], "label": [1]}),
            "no text among the fields 'headline', 'label'; name it in a manifest, for example `text: headline`",
        ),
        ("a.json", b'{"headline": ["some words"], "label": [1]}', "no text among the fields 'headline', 'label'"),
        ("a.parquet", b"PAR1 but nothing else", "damaged Parquet"),
        ("a.parquet", GOOD, "is named Parquet but is not"),
        ("a.jsonl", b"ARROW1\0\0", "Arrow"),
        ("a.jsonl.gz", b"PK\x03\x04....", "zip archive"),
        ("a.jsonl.gz", gzip.compress(GOOD * 9999)[:-30], "end too early"),
        ("a.jsonl.gz", gzip.compress(GOOD)[:-8] + bytes(8), "gzip data are damaged"),
        ("a.jsonl.zst", zstandard.compress(bytes(os.urandom(99)).hex().encode() * 999)[:-9], "end too early"),
        ("a.jsonl.zst", zstandard.compress(GOOD)[:6] + b"\xff" * 40, "damaged"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    (tmp_path / "b.jsonl").write_bytes(GOOD)
    # Some faults lie behind the beginning of a file; strict reads all of it.
    assert message in fails(tmp_path, strict=True)


def test_a_file_of_nothing_but_bad_records_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'[1, 2]\n"x"\n')
    assert "a.jsonl:1: the line is a list, not an object; write one JSON object a line (all 2 records" in fails(
        tmp_path
    )


def test_deep_faults_of_a_file_are_errors_when_not_strict_too(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD * 9 + b'{"text": "caf\xe9"}\n')
    corpora = load_corpora(tmp_path)
    with pytest.raises(CorpusError, match=r"a\.jsonl, line 10: byte 0xe9"):
        corpora.scan()
    with pytest.raises(CorpusError, match=r"a\.jsonl, line 10: byte 0xe9"):
        list(corpora["a"].records("train"))


def test_places(tmp_path: Path) -> None:
    assert "no such file or folder" in fails(tmp_path / "missing")
    assert "holds no corpus" in fails(tmp_path)
    (tmp_path / "notes.md").write_text("x")
    assert "holds no corpus (notes.md: not of a known format)" in fails(tmp_path)
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    assert "is a single file" in fails(tmp_path / "a.jsonl")
    assert "holds no corpus" in fails({})
    assert "cannot be used as a path" in fails("a: b\n" * 2000)
    assert "cannot be used as a path" in fails({"a": "~no such user/x"})
    assert "no such file or folder" in fails({"a": tmp_path / "b.jsonl"})
    assert "nothing matches" in fails({"a": str(tmp_path / "*.csv")})
    (tmp_path / "empty").mkdir()
    assert "holds no file of a known format" in fails({"a": tmp_path / "empty"})
    (tmp_path / "dangling.jsonl").symlink_to(tmp_path / "nowhere")
    assert "dangling.jsonl: no such file" in fails(tmp_path)


def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD)
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "pipe.jsonl: is not a regular file" in fails(tmp_path)
    (tmp_path / "pipe.jsonl").unlink()
    path.chmod(0)
    if os.access(path, os.R_OK):  # root reads everything: let the system call refuse instead
        import builtins

        real = builtins.open

        def refuse(file: object, *rest: object, **more: object) -> object:
            if str(file) == str(path):
                raise PermissionError(13, "Permission denied")
            return real(file, *rest, **more)  # type: ignore[call-overload]

        monkeypatch.setattr(builtins, "open", refuse)
    assert "a.jsonl: may not be read; check its permissions." in fails(tmp_path)


def test_bad_records_are_counted_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = b'[1]\n{"other": "x"}\n{"text": ""}\nnonsense\n'
    (tmp_path / "a.jsonl").write_bytes(GOOD + bad + GOOD + b"\n" + GOOD)
    (tmp_path / "b.jsonl").write_bytes(GOOD)
    corpora = load_corpora(tmp_path)
    domain = corpora["a"]
    with caplog.at_level(logging.WARNING, logger="kinfold.corpora"):
        assert [record.line for record in domain.records()] == [1, 6, 8]
        list(domain.records())
    assert len(caplog.records) == 1
    assert "4 of 7 records are bad" in caplog.records[0].getMessage()
    assert domain.bad == 4
    path = tmp_path / "a.jsonl"
    assert domain.problems() == (
        f"{path}:2: the line is a list, not an object; write one JSON object a line.",
        f"{path}:3: no text among the fields 'other'; name it in a manifest, for example `text: other`.",
        f"{path}:4: 'text' is empty; fill it or remove the record.",
        f"{path}:5: the line is not valid JSON (Expecting value); write one JSON object a line.",
    )
    summary = corpora.scan()
    assert summary.bad == 4
    assert [found.bad for found in summary.domains] == [4, 0]
    assert any(warning.startswith("a: 4 of 7 records are bad") for warning in summary.warnings)
    assert f"{path}:2: the line is a list" in fails(tmp_path, strict=True)


@pytest.mark.parametrize("splits", [("train",), ("train", "test"), ("test", "train", None), (None, "train")])
def test_every_pass_over_one_split_names_what_it_skipped_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, splits: tuple[str | None, ...]
) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD * 50 + b"[1]\n")
    domain = load_corpora(tmp_path)["a"]
    with caplog.at_level(logging.WARNING, logger="kinfold.corpora"):
        for split in splits:
            list(domain.records(split))
    assert [record.getMessage().split("; the first")[0] for record in caplog.records] == [
        "a: 1 of 51 records are bad and were skipped"
    ]


def test_a_pass_that_opens_only_its_own_files_names_their_faults(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "train.jsonl").write_bytes(GOOD * 50 + b"[1]\n")
    (folder / "test.jsonl").write_bytes(GOOD * 50 + b"[1]\n[2]\n")
    domain = load_corpora(tmp_path)["a"]
    with caplog.at_level(logging.WARNING, logger="kinfold.corpora"):
        list(domain.records("train"))
        list(domain.records("train"))
        list(domain.records("test"))
    assert ["1 of 51" in caplog.records[0].getMessage(), "2 of 52" in caplog.records[1].getMessage()] == [True, True]
    assert len(caplog.records) == 2
    assert domain.bad == 3


def test_counts_hold_after_partial_reading_and_change(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD * 50 + b"{}\n")
    domain = load_corpora(tmp_path)["a"]
    next(domain.records())
    list(domain.records("train", limit=1))
    assert domain.bad == 1
    path.write_bytes(GOOD * 50 + b"{}\n{}\n{}\n")
    assert domain.bad == 3


def test_a_file_of_nothing_but_bad_records_is_refused_early(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"id": 1}\n' * 100_000)
    message = fails(tmp_path)
    assert "a.jsonl:1: no text among the fields 'id'" in message
    assert "the first 100 records are all bad" in message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a/b", "path separator or '..'"),
        ("..", "path separator or '..'"),
        ("../up", "path separator or '..'"),
        ("a\\b", "path separator or '..'"),
        (".", "path separator or '..'"),
        ("", "is empty"),
        (" ", "is empty"),
        (" a", "white space"),
        ("a\nb", "control characters"),
        ("a\x1b[31m", "control characters"),
        ("a\u202eb", "control characters"),
        ("a" * 300, "too long"),
        ("語" * 40, "too long"),
        (3, "is not text"),
    ],
)
def test_domain_names(tmp_path: Path, name: object, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD)
    assert message in fails({name: path})


def test_names_that_mean_the_same(tmp_path: Path) -> None:
    (tmp_path / "news.jsonl").write_bytes(GOOD)
    (tmp_path / "news.csv").write_bytes(b"text\na\n")
    message = fails(tmp_path)
    assert "'news' is the same as that of" in message
    assert "news.csv" in message
    assert "news.jsonl" in message
    (tmp_path / "news.csv").rename(tmp_path / "News.csv")
    assert "differs only in case" in fails(tmp_path)
    # Composed and decomposed spellings are one name.
    path = tmp_path / "news.jsonl"
    assert "domain name" in fails({"caf\u00e9": path, "cafe\u0301": path})


def test_good_names_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD)
    names = ("Q&A <b>", "naïve 漢字", "a.b", "-rf", "$(x)", "CON")
    assert set(load_corpora(dict.fromkeys(names, path)).names) == set(names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("- a\n- b\n", "is not a mapping"),
        ("a: {path: [}\n", "line 1: not valid YAML"),
        ("a: {path: x}\n\nb: {path: y}\na: {path: z}\n", "line 4: 'a' is named twice, first on line 1"),
        ("a:\n  path: x\n  text: t\n  path: y\n", "line 4: 'path' is named twice, first on line 2"),
        ("a:\n  path: x\n  lable: t\n", "line 3: unknown key 'lable' of 'a'; did you mean 'label'?"),
        ("a: {path: x, colour: t}\n", "line 1: unknown key 'colour' of 'a'; use one of path, hub"),
        ("a: 3\n", "the entry of 'a' is 3"),
        ("a: {}\n", "needs either `path` or `hub`"),
        ("a: {path: good.jsonl, hub: b/c}\n", "needs either `path` or `hub`"),
        ("no: good.jsonl\n", "line 1: YAML reads the domain name 'no' as False, not as text; put it in quotes"),
        ("1: good.jsonl\n", "put it in quotes"),
        ("a: {path: 3}\n", "path=3 of 'a' is not a path"),
        ("a: {path: []}\n", "empty list of paths"),
        ("a: {path: gone.jsonl}\n", "gone.jsonl: no such file or folder"),
        ("a: {path: good.jsonl, weight: 0}\n", "weight=0 of 'a' is not a number above 0"),
        ("a: {path: good.jsonl, weight: heavy}\n", "weight='heavy' of 'a' is not a number"),
        ("a: {path: good.jsonl, weight: .nan}\n", "is not a number above 0"),
        ("a: {path: good.jsonl, general: maybe}\n", "general='maybe' of 'a' is not a truth value"),
        ("a: {path: good.jsonl, general: yes, unlabelled: yes}\n", "both general and unlabelled"),
        ("a: {path: good.jsonl, text: body}\n", "good.jsonl:1: no field 'body' among 'text'"),
        ("a: {path: good.jsonl, text: t, messages: m}\n", "names text and messages at once"),
        ("a: {path: good.jsonl, documents: pages}\n", "documents='pages' is not known; use one of blocks"),
        ("a: {path: good.jsonl, subset: en}\n", "`subset` belongs to `hub`"),
        ("a: {hub: 'bad id!'}\n", "'bad id!' is not a data set id"),
        ("a: {hub: ../../etc}\n", "is not a data set id"),
        ("a: {hub: b/c, split: train}\n", "cannot choose a split of a hub data set"),
        ("a: {path: good.jsonl, validation: 0.6, test: 0.6}\n", "leaves nothing to train on"),
        ("../a: good.jsonl\n", "line 1: the domain name '../a' has a path separator"),
        ("a: !!python/object/apply:os.system [true]\n", "not valid YAML"),
    ],
)
def test_manifests(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "good.jsonl").write_bytes(GOOD)
    path = tmp_path / "corpora.yaml"
    path.write_text(text)
    found = fails(path)
    assert message in found
    assert "corpora.yaml" in found or "good.jsonl" in found or "gone.jsonl" in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {path: good.jsonl, validation: 2}\n", "line 1: validation=2 is not a share"),
        ("a: {path: good.jsonl, limit: 0}\n", "line 1: limit=0 is not a number of records"),
    ],
)
def test_numbers_of_a_manifest(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "good.jsonl").write_bytes(GOOD)
    path = tmp_path / "corpora.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_corpora(path)


def test_a_manifest_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "corpora.yaml"
    path.write_bytes(b"a: x\ncaf\xe9: y\n")
    assert "line 2: not UTF-8" in fails(path)
    assert json.dumps(fails(path))


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_line_too_long_to_be_held_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.setattr(_streams, "LONGEST", 1 << 20)
    fits = json.dumps({"text": "x" * ((1 << 20) - 20)}).encode() + b"\n"
    data = GOOD + fits + json.dumps({"text": "y" * (1 << 20)}).encode() + b"\n"
    packed = {"": data, ".gz": gzip.compress(data), ".zst": zstandard.compress(data)}[suffix]
    (tmp_path / f"a.jsonl{suffix}").write_bytes(packed)
    number = data.count(b"\n")
    with pytest.raises(CorpusError, match=rf"line {number}: is longer than 1 MiB; write one record a line"):
        list(load_corpora(tmp_path)["a"].records())
    (tmp_path / f"a.jsonl{suffix}").write_bytes(GOOD + fits)
    assert max(len(record.plain) for record in load_corpora(tmp_path)["a"].records()) == (1 << 20) - 20


def test_a_file_that_unpacks_to_very_much_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.zst"
    size = 200 << 20
    path.write_bytes(zstandard.compress(b"\n" * size))  # a few kilobytes
    assert path.stat().st_size < size / 5000
    tracemalloc.start()
    try:
        with _streams.opened(path) as stream:
            read = sum(len(piece) for piece in iter(lambda: stream.read(_streams.CHUNK), b""))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read == size
    assert peak < 40 << 20
