"""Harvesting: real text from what is installed, cut, de-duplicated and split by file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinfold.app.demo import HarvestSettings, harvest
from kinfold.app.demo._text import Seen, clean, paragraphs, split_document
from kinfold.app.demo.harvesting import DOMAINS, DomainSource
from kinfold.app.demo.sources import Piece, docstrings, required_distributions, standard_code, topics
from kinfold.corpora import load_corpora
from kinfold.errors import CorpusError

SMALL = HarvestSettings(characters=40_000, general_characters=150_000, documents=20)


@pytest.fixture(scope="module")
def harvested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harvest(tmp_path_factory.mktemp("harvest") / "corpora", settings=SMALL)


def _rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def test_at_least_six_real_domains_and_a_general_corpus(harvested: Path) -> None:
    names = {path.stem for path in harvested.glob("*.jsonl")}
    assert "general" in names
    assert len(names - {"general"}) >= 6
    corpora = load_corpora(harvested, strict=True)
    assert set(corpora.names) == names
    assert [domain.name for domain in corpora.general] == ["general"]
    summary = corpora.scan()
    assert summary.bad == 0
    for domain in corpora.planned:
        for split in ("train", "validation", "test"):
            assert next(iter(domain.records(split)), None) is not None, f"{domain.name}: no {split} text"


def test_documents_keep_the_promised_sizes(harvested: Path) -> None:
    for path in harvested.glob("*.jsonl"):
        rows = _rows(path)
        most = SMALL.general_characters if path.stem == "general" else SMALL.characters
        sizes = [len(row["text"]) for row in rows]
        assert max(sizes) <= SMALL.longest
        assert min(sizes) >= SMALL.shortest
        assert sum(sizes) >= 0.3 * most
        # A file that crosses the line is still read to its end.
        assert sum(sizes) <= 4 * most
        assert {frozenset(row) for row in rows} == {frozenset({"text", "split"})}


def test_no_paragraph_stands_twice_anywhere(harvested: Path) -> None:
    seen: dict[str, str] = {}
    for path in sorted(harvested.glob("*.jsonl")):
        for row in _rows(path):
            for part in row["text"].split("\n\n"):
                key = _letters(part)
                # The harvest works on whole paragraphs; pieces of a cut one (and non-Latin letters) are left to it.
                if len(key) >= 60 and part.isascii() and len(part) < 600:
                    assert key not in seen, f"{path.stem} repeats a paragraph of {seen[key]}: {part[:80]!r}"
                    seen[key] = path.stem
    assert len(seen) > 500


def test_the_same_installation_gives_the_same_bytes(harvested: Path, tmp_path: Path) -> None:
    again = harvest(tmp_path / "again", settings=SMALL)
    assert sorted(path.name for path in again.iterdir()) == sorted(path.name for path in harvested.iterdir())
    for path in harvested.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()


def test_nothing_is_imported_to_be_harvested(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from kinfold.app.demo.harvesting import harvest;"
        "from kinfold.app.demo.settings import HarvestSettings;"
        "small = HarvestSettings(characters=20_000, general_characters=20_000, documents=10);"
        "harvest(Path(sys.argv[1]), settings=small);"
        "print(sorted({'torch', 'sklearn', 'scipy', 'pandas', 'networkx'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "[]"


def _source(name: str, count: int, word: str) -> DomainSource:
    def read() -> Iterator[Piece]:
        for number in range(count):
            yield Piece(f"{word} {number} " * 30, f"{name}/{number}")

    return DomainSource(name, f"{name} words", (read,))


class _Warnings:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def warn(self, message: str) -> None:
        self.heard.append(message)

    def __getattr__(self, name: str) -> object:
        from kinfold._progress import SILENT

        return getattr(SILENT, name)


def test_a_missing_source_is_skipped_with_a_warning(tmp_path: Path) -> None:
    wanted = HarvestSettings(documents=10, domains=2)
    sources = [_source("a", 30, "apple"), _source("b", 30, "berry"), _source("gone", 3, "nothing")]
    progress = _Warnings()
    out = harvest(tmp_path / "out", progress, settings=wanted, domains=sources, general=_source("general", 30, "word"))
    assert sorted(path.stem for path in out.iterdir()) == ["a", "b", "general"]
    assert len(progress.heard) == 1
    assert "gone" in progress.heard[0]


def test_too_few_domains_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    wanted = HarvestSettings(documents=10, domains=3)
    sources = [_source("a", 30, "apple"), _source("b", 30, "berry"), _source("gone", 3, "nothing")]
    with pytest.raises(CorpusError, match="only 2 of 3"):
        harvest(tmp_path / "out", settings=wanted, domains=sources, general=_source("general", 30, "word"))
    assert list(tmp_path.iterdir()) == []


def test_pieces_of_one_file_share_a_split(tmp_path: Path) -> None:
    def read() -> Iterator[Piece]:
        for file in range(40):
            for number in range(5):
                yield Piece(f"file{file}x piece{number} " * 20, f"file{file}x")

    out = harvest(
        tmp_path / "out",
        settings=HarvestSettings(documents=10, domains=2),
        domains=[DomainSource("files", "files", (read,)), _source("b", 30, "berry")],
        general=_source("general", 30, "word"),
    )
    home: dict[str, str] = {}
    for row in _rows(out / "files.jsonl"):
        file = row["text"].split()[0]
        assert home.setdefault(file, row["split"]) == row["split"]
    assert set(home.values()) == {"train", "validation", "test"}
    shares = [list(home.values()).count(split) / 40 for split in ("test", "validation")]
    assert 0.05 < shares[0] < 0.25
    assert 0 < shares[1] < 0.15


def test_only_kinfolds_own_requirements_are_read() -> None:
    found = required_distributions()
    assert {"torch", "numpy", "scipy", "kinfold"} <= set(found)
    assert "pytest" not in found  # the dev extra is the user's business


def test_sources_of_a_package_that_is_not_there_are_empty() -> None:
    assert list(docstrings("no_such_package_anywhere")()) == []


def test_a_folder_beside_the_user_is_not_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "networkx").mkdir()
    (tmp_path / "networkx" / "__init__.py").write_text('"""A secret of the user, in a package of the same name."""')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    texts = [piece.text for piece in docstrings("networkx")()]
    assert len(texts) > 100
    assert not any("secret of the user" in text for text in texts)


def test_docstrings_are_those_python_shows() -> None:
    import fractions

    # An independent reader: what `help` would say of an imported module.
    texts = {piece.text for piece in docstrings("json")()}
    import json.decoder
    import json.encoder

    for thing in (json, json.dumps, json.decoder.JSONDecoder, json.encoder.JSONEncoder.iterencode):
        import inspect

        assert inspect.getdoc(thing) in texts
    assert inspect.getdoc(fractions) not in texts


def test_code_is_python_without_docstrings() -> None:
    import ast

    count = 0
    for piece in standard_code():
        tree = ast.parse(piece.text)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and len(node.body) > 1:
                assert ast.get_docstring(node) is None, f"{piece.origin}: {node.name} kept its docstring"
        count += 1
        if count == 400:
            break
    assert count == 400


def test_language_reference_is_what_help_prints() -> None:
    pytest.importorskip("pydoc_data.topics")
    from pydoc_data import topics as known

    assert {piece.text for piece in topics()} == set(known.topics.values())


def test_every_domain_says_what_it_is() -> None:
    assert len(DOMAINS) >= 8
    assert len({source.name for source in DOMAINS}) == len(DOMAINS)
    assert all(source.what and source.readers for source in DOMAINS)


_TEXT = st.text(alphabet="ab \n\t\r\x00é\u2028", max_size=300)


@settings(deadline=None, max_examples=150)
@given(_TEXT)
def test_clean_is_idempotent_and_keeps_the_letters(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    assert re.sub(r"[\s\x00]", "", once) == re.sub(r"[\s\x00]", "", text)
    assert "\x00" not in once
    assert "\n\n\n" not in once


@settings(deadline=None, max_examples=150)
@given(st.lists(st.text(alphabet="abc \n", min_size=1, max_size=120), max_size=12), st.integers(20, 60))
def test_splitting_loses_nothing_but_short_rests(parts: list[str], longest: int) -> None:
    parts = [part for part in parts if part.strip()]
    documents = list(split_document(parts, longest, 1))
    assert all(1 <= len(document) <= longest for document in documents)
    assert re.sub(r"\s", "", "".join(documents)) == re.sub(r"\s", "", "".join(parts))
    long_ones = list(split_document(parts, longest, 15))
    assert all(15 <= len(document) <= longest for document in long_ones)


def test_a_rewrapped_paragraph_is_the_same_paragraph() -> None:
    seen = Seen()
    text = "Redistribution and use in source and binary forms, with or without modification, are permitted."
    assert seen.fresh(["Parameters", text]) == ["Parameters", text]
    assert seen.fresh(["Parameters", text.replace(" ", "\n   ").upper(), text + " Not."]) == [
        "Parameters",
        text + " Not.",
    ]


def test_indentation_survives() -> None:
    text = clean("def f():\n\n    x = 1  \n\n\n\n    return x\n")
    assert text == "def f():\n\n    x = 1\n\n    return x"
    assert paragraphs(text) == ["def f():", "    x = 1", "    return x"]
