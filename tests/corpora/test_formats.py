"""Every format, compressed or not, gives the same records; content speaks louder than the suffix."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from kinfold.corpora import Domain, Source, _datasets, load_corpora
from kinfold.corpora._formats import detect, format_by_name, split_by_name, stem
from kinfold.errors import CorpusError

ROWS = [
    {
        "text": f"Document {number}: naïve “quotes”, 漢字 🌱, a\ttab, commas, 'and' \"more\"\nsecond line",
        "label": number % 3,
    }
    for number in range(40)
]


def _jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _csv(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out, row_group_size=7)
    return out.getvalue()


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


ENCODED = {
    "jsonl": _jsonl(ROWS),
    "ndjson": _jsonl(ROWS).replace(b"\n", b"\r\n"),
    "json": json.dumps(ROWS, indent=1).encode(),
    "min.json": json.dumps(ROWS).encode(),
    "columns.json": json.dumps(_columns(ROWS)).encode(),
    "pretty.json": json.dumps(_columns(ROWS), indent=4).encode(),
    "pandas.json": json.dumps(
        {name: dict(zip(map(str, range(40)), cells, strict=True)) for name, cells in _columns(ROWS).items()}
    ).encode(),
    "wrapped.json": json.dumps({"version": {"major": [1]}, "data": ROWS, "n": 40}, indent=2).encode(),
    "lines.json": _jsonl(ROWS),
    "csv": _csv(ROWS),
    "tsv": _csv(ROWS, "\t"),
    "semicolon.csv": _csv(ROWS, ";").replace(b",", b","),
    "parquet": _parquet(ROWS),
}


def _pack(data: bytes, packing: str) -> bytes:
    if packing == ".gz":
        # Two members, as `cat a.gz b.gz` makes them.
        return gzip.compress(data[:100]) + gzip.compress(data[100:])
    if packing == ".zst":
        pack = zstandard.ZstdCompressor().compress
        return pack(data[:100]) + pack(data[100:])
    return data


def _read(path: Path) -> list[tuple[str | None, str | None]]:
    return [(record.text, record.label) for record in Domain("d", sources=(Source(path),)).records()]


EXPECTED = [(row["text"], str(row["label"])) for row in ROWS]


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", ENCODED)
def test_all_formats_give_the_same_records(tmp_path: Path, name: str, packing: str) -> None:
    path = tmp_path / f"d.{name}{packing}"
    data = ENCODED[name]
    if name == "semicolon.csv":
        data = b"text;label\n" + b"".join(
            b'"%s";%d\n' % (row["text"].replace('"', '""').encode(), row["label"]) for row in ROWS
        )
    path.write_bytes(_pack(data, packing))
    assert _read(path) == EXPECTED


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_compression_is_seen_by_content(tmp_path: Path, packing: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(_pack(ENCODED["jsonl"], packing))
    assert _read(path) == EXPECTED
    plain = tmp_path / f"e.jsonl{packing}"
    plain.write_bytes(ENCODED["jsonl"])
    assert _read(plain) == EXPECTED


@pytest.mark.parametrize(
    ("suffix", "encoded", "kind"),
    [
        ("jsonl", "json", "json"),
        ("jsonl", "min.json", "json"),
        ("json", "jsonl", "jsonl"),
        ("jsonl", "parquet", "parquet"),
        ("csv", "parquet", "parquet"),
        ("json", "columns.json", "json"),
        ("json", "wrapped.json", "json"),
        ("jsonl", "ndjson", "jsonl"),
    ],
)
def test_content_speaks_louder_than_the_suffix(tmp_path: Path, suffix: str, encoded: str, kind: str) -> None:
    path = tmp_path / f"d.{suffix}"
    path.write_bytes(ENCODED[encoded])
    assert detect(path) == kind
    assert _read(path) == EXPECTED


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("d.json", '{"text": "alone"}', "json"),
        ("d.jsonl", '{"text": "alone"}', "jsonl"),
        ("d.jsonl", '{\n "text": "alone"\n}', "json"),
        ("d.json", '{"data": [\n{"text": "a"}]}', "json"),
        ("d.json", '{"text": "broken\n{"text": "a"}\n', "jsonl"),
        ("d.json", '[\n{"text": "a"}]', "json"),
        ("d.jsonl", '[1]\n{"text": "a"}\n', "jsonl"),
        ("d.jsonl", '{"text": "' + "x" * 100_000 + '"}\n', "jsonl"),
        ("d.json", '{"text": ["' + "x" * 100_000 + '"]}', "json"),
        ("d.txt", '{"text": "a text that looks like JSON"}', "txt"),
        ("d", '{"text": "a"}\n{"text": "b"}', "jsonl"),
        ("d", "plain words", "txt"),
        ("d.csv", '{"text": "a"},b\n', "csv"),
    ],
)
def test_detection(tmp_path: Path, name: str, text: str, kind: str) -> None:
    (tmp_path / name).write_text(text)
    assert detect(tmp_path / name) == kind


def test_names() -> None:
    assert [stem(Path(name)) for name in ("a.jsonl", "a.JSON.GZ", "a.v2.csv.zst", "a", "a.b")] == [
        "a",
        "a",
        "a.v2",
        "a",
        "a.b",
    ]
    assert format_by_name(Path("a.md")) is None
    assert split_by_name(Path("r/dev/x.jsonl"), Path("r")) == "validation"
    assert split_by_name(Path("r/train.jsonl.gz")) == "train"
    assert split_by_name(Path("r/test_3.csv")) == "test"
    assert split_by_name(Path("r/testing-ground.csv")) is None


@pytest.mark.parametrize("name", ["jsonl", "json", "csv", "columns.json"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"d.{name}"
    path.write_bytes(b"\xef\xbb\xbf" + ENCODED[name])
    assert _read(path) == EXPECTED


def test_lines_and_rows_are_numbered(tmp_path: Path) -> None:
    def lines(name: str, data: bytes) -> list[int]:
        (tmp_path / name).write_bytes(data)
        return [record.line for record in Domain("d", sources=(Source(tmp_path / name),)).records()]

    assert lines("a.jsonl", b'\n{"text": "a"}\n\n{"text": "b"}') == [2, 4]
    assert lines("a.json", b'[\n {"text": "a"},\n {\n"text": "b"},{"text":"c"}]') == [2, 3, 4]
    assert lines("a.csv", b'id,text\n1,"two\nlines"\n2,b\n') == [2, 4]
    assert lines("a.parquet", _parquet(ROWS[:3])) == [1, 2, 3]
    assert lines("a.txt", b"\n\none\none\n\n \ntwo\n") == [3, 7]


def test_text_blocks_lines_and_files(tmp_path: Path) -> None:
    path = tmp_path / "d.txt"
    path.write_bytes("\ufeffFirst line\r\nsecond line\r\n\r\n \t\r\nÜber\r\n".encode())

    def texts(documents: str) -> list[str]:
        return list(Domain("d", sources=(Source(path),), documents=documents).texts())

    assert texts("blocks") == ["First line\nsecond line", "Über"]
    assert texts("lines") == ["First line", "second line", "Über"]
    assert texts("files") == ["First line\nsecond line\n\n \t\nÜber"]


def test_a_very_long_text_is_cut_at_line_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kinfold.corpora._readers.LONGEST_DOCUMENT", 1000)
    path = tmp_path / "d.txt"
    path.write_text("\n".join(f"line {number:04d}" for number in range(1000)))
    parts = list(Domain("d", sources=(Source(path),), documents="files").texts())
    assert "\n".join(parts) == path.read_text()
    assert max(map(len, parts)) <= 1000
    assert len(parts) < 12


def test_a_cell_longer_than_the_csv_default_and_the_default_is_put_back(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("text,label\n" + "word " * 60_000 + ",1\n")
    before = csv.field_size_limit()
    assert [len(text) for text in Domain("d", sources=(Source(path),)).texts()] == [300_000]
    assert csv.field_size_limit() == before


def test_saved_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list(ROWS)
    table.save_to_disk(tmp_path / "plain" / "one")
    datasets.DatasetDict({"train": table.select(range(30)), "dev": table.select(range(30, 40))}).save_to_disk(
        tmp_path / "split" / "one"
    )
    datasets.DatasetDict({"train": table, "unsupervised": table}).save_to_disk(tmp_path / "lone" / "one")

    plain = load_corpora(tmp_path / "plain")["one"]
    assert plain.kind == "datasets"
    assert [(record.text, record.label) for record in plain.records()] == EXPECTED
    assert {record.split for record in plain.records()} == {"train", "validation", "test"}
    split = load_corpora(tmp_path / "split")["one"]
    assert [record.line for record in split.records("validation")] == list(range(1, 11))
    assert [record.text for record in split.records("train")] == [row["text"] for row in ROWS[:30]]
    lone = load_corpora(tmp_path / "lone")
    assert "unsupervised" in lone.ignored[0]
    assert sum(1 for _ in lone["one"].records()) == 40
    assert {record.split for record in lone["one"].records()} == {"train", "validation", "test"}
    assert len({corpus.fingerprint for corpus in (plain, split)}) == 2
    assert load_corpora(tmp_path / "plain")["one"].fingerprint == plain.fingerprint


def test_a_fault_of_the_hub_names_the_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def load_dataset(*args: Any, **kwargs: Any) -> Any:
        raise FileNotFoundError("no such data set")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(_datasets, "unreachable", lambda: None)
    with pytest.raises(CorpusError, match=r"hub data set 'nobody/nothing': cannot be loaded \(no such .* save it with"):
        load_corpora({"a": {"hub": "nobody/nothing"}})


def test_a_hub_data_set_is_read_through_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(*args: Any, **kwargs: Any) -> Any:
        asked.append((args, kwargs))
        table = datasets.Dataset.from_list(ROWS)
        return datasets.DatasetDict({"train": table.select(range(25)), "test": table.select(range(25, 40))})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(_datasets, "unreachable", lambda: None)
    domain = load_corpora({"a": {"hub": "owner/name", "subset": "en", "revision": "abc"}})["a"]
    assert asked[0] == (("owner/name", "en"), {"revision": "abc"})
    assert [(record.text, record.label) for record in domain.records("test")] == EXPECTED[25:]
    assert next(domain.records("test")).path == "owner/name/test"
    assert len(domain.fingerprint) == 32
