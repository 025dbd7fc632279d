"""Whatever the texts, formats agree; whatever the bytes, the answer is records or one sentence."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kinfold.corpora import Domain, Source, load_corpora
from kinfold.errors import KinfoldError

# csv of Python 3.10 refuses NUL, and UTF-8 has no surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
labels = st.integers(-3, 12)
names = st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.txt", "a.parquet", "a.jsonl.gz", "a.json.zst", "a"])
PIECES = [
    *(b"[", b"]", b"{", b"}", b",", b"\n", b'"', b"1", b"\0", b"\xff", b"\xc3\xb6", b"\xef\xbb\xbf", b"\\ud800"),
    *(b"PAR1", b"\x1f\x8b", b"text,label\n", b'{"text":', b'{"text": "x"}'),
    b'{"messages": [{"role": "user", "content": "x"}]}',
]
scraps = st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join)


def _write(folder: Path, rows: list[dict[str, object]]) -> list[Path]:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, ["text", "label"])
    writer.writeheader()
    writer.writerows(rows)
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    table = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    files = {
        "a.jsonl": lines,
        "b.json": json.dumps(rows, ensure_ascii=False, indent=2).encode(),
        "c.json": json.dumps({name: [row[name] for row in rows] for name in ("text", "label")}).encode(),
        "d.csv": out.getvalue().encode(),
        "e.parquet": table.getvalue(),
        "f.jsonl.gz": gzip.compress(lines),
        "g.csv.zst": zstandard.compress(out.getvalue().encode()),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]


@given(st.lists(st.fixed_dictionaries({"text": texts, "label": labels}), min_size=1, max_size=8))
@example([{"text": 'a "quoted", text\r\nand another\rline', "label": 0}])
@example([{"text": "\u2028 line \x85 ends \x1c that are none", "label": 1}])
@example([{"text": "\ufeff", "label": 1}, {"text": " \n ", "label": 2}])
@settings(deadline=None, max_examples=60)
def test_all_formats_agree(rows: list[dict[str, object]]) -> None:
    expected = [(row["text"], str(row["label"])) for row in rows if str(row["text"]).strip()]
    with tempfile.TemporaryDirectory() as name:
        for path in _write(Path(name), rows):
            domain = Domain("d", sources=(Source(path),))
            records = list(domain.records())
            assert [(record.text, record.label) for record in records] == expected, path.name
            assert domain.bad == len(rows) - len(expected)
            assert {r.key for split in ("train", "validation", "test") for r in domain.records(split)} == {
                r.key for r in records
            }


@given(names, scraps, st.sampled_from(["", "gzip", "zstd"]), st.integers(0, 400), st.booleans())
@settings(deadline=None, max_examples=250)
def test_any_bytes_give_records_or_one_sentence(name: str, data: bytes, packing: str, cut: int, strict: bool) -> None:
    if packing:
        data = (gzip.compress(data) if packing == "gzip" else zstandard.compress(data))[:cut]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        fault: KinfoldError | None = None
        try:
            corpora = load_corpora({"a": path}, strict=strict)
            summary = corpora.scan()
        except KinfoldError as raised:
            fault = raised
    if fault is None:
        assert sum(summary.domains[0].documents.values()) > 0
        assert not (strict and summary.bad)
    else:
        assert fault.exit_code == 2
        assert "\n" not in str(fault)
        assert str(path) in str(fault)
        assert str(fault)[-1] in ".?"
