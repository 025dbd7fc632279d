"""Rows of every format, streamed: each reader yields (line, row) or (line, Fault) and never holds a whole file."""

from __future__ import annotations

import contextlib
import csv
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CorpusError
from ._json import JsonStream, JsonStreamError, strict_object
from ._streams import decoded_chunks, decoded_lines, opened

__all__ = ["Columns", "Fault", "Row", "read_rows"]

# A .txt document longer than this is cut at a line end, so that memory stays bounded.
LONGEST_DOCUMENT = 1 << 20
_FIELD_LIMIT = 1 << 27
_BATCH = 256
# Parquet columns are read in pieces of this many bytes instead of a row group at a time.
_BUFFER = 1 << 18


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a row is no record, and the remedy: `why; remedy` without the place."""

    why: str


Columns = Callable[[Sequence[str]], list[str]]
Row = tuple[int, "dict[str, Any] | Fault"]


def read_rows(path: Path, kind: str, documents: str = "blocks", columns: Columns | None = None) -> Iterator[Row]:
    """Every row of a file.

    Parameters
    ----------
    path
        The file.
    kind
        Its format, as `detect` says.
    documents
        What a document of a `.txt` file is: "blocks" between blank lines, "lines" or the whole "files".
    columns
        Chooses among the names of columns, for formats that store them apart.

    Raises
    ------
    CorpusError
        When the file itself cannot be read; a fault of one row is yielded instead.
    """
    if kind == "jsonl":
        return _jsonl(path)
    if kind == "json":
        return _json(path, columns)
    if kind == "csv":
        return _csv(path)
    if kind == "parquet":
        return _parquet(path, columns)
    return _txt(path, documents)


def _txt(path: Path, documents: str) -> Iterator[Row]:
    with opened(path) as stream:
        lines: list[str] = []
        size, start = 0, 1
        for number, line in decoded_lines(stream, path):
            text = line.rstrip("\r\n")
            ends = not text.strip() and documents != "files"
            if lines and (ends or documents == "lines" or size + len(text) > LONGEST_DOCUMENT):
                yield start, {"text": "\n".join(lines)}
                lines, size = [], 0
            if not ends and (lines or text.strip()):
                if not lines:
                    start = number
                lines.append(text)
                size += len(text) + 1
        while lines and not lines[-1].strip():
            lines.pop()
        if lines:
            yield start, {"text": "\n".join(lines)}


def _kind_of(value: object) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a truth value",
        int: "a number",
        float: "a number",
    }
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _jsonl(path: Path) -> Iterator[Row]:
    scan = strict_object.scan_once  # type: ignore[attr-defined]  # there, but in no stub
    with opened(path) as stream:
        for number, line in decoded_lines(stream, path):
            try:
                # The bare scanner is twice as fast as `decode`, which has the last word where anything is odd.
                value, end = scan(line, 0)
                odd = line[end:] not in ("\n", "\r\n", "")
            except (StopIteration, ValueError, RecursionError):
                odd = True
            if odd:
                value = _decoded(line)
            if type(value) is dict or type(value) is Fault:
                yield number, value
            elif value is not _BLANK:
                yield number, Fault(f"the line is {_kind_of(value)}, not an object; write one JSON object a line")


_BLANK = object()


def _decoded(line: str) -> Any:
    """The value of an odd line, a fault, or `_BLANK`."""
    try:
        return strict_object.decode(line)
    except RecursionError:
        why = "nested too deeply"
    except ValueError as fault:
        if line.isspace():
            return _BLANK
        why = fault.msg if isinstance(fault, json.JSONDecodeError) else str(fault)
    return Fault(f"the line is not valid JSON ({why}); write one JSON object a line")


def _json(path: Path, columns: Columns | None) -> Iterator[Row]:
    with opened(path) as file:
        stream = JsonStream(decoded_chunks(file, path))
        try:
            if stream.peek() == "[":
                yield from _items(stream)
                _at_end(stream)
                return
            shape, names = _shape(stream, path)
        except JsonStreamError as fault:
            raise _broken(path, fault) from None
    if shape == "columns":
        yield from _columns(path, columns(names) if columns is not None else names)
        return
    with opened(path) as file:
        stream = JsonStream(decoded_chunks(file, path))
        try:
            if shape == "record":
                stream.peek()
                yield stream.line, stream.value()
                return
            for _, name in stream.members():
                if name == names[0]:
                    yield from _items(stream)
                else:
                    stream.skip()
        except JsonStreamError as fault:
            raise _broken(path, fault) from None


def _broken(path: Path, fault: JsonStreamError) -> CorpusError:
    return CorpusError(f"{path}, line {fault.line}: {fault.why}; mend the JSON, or write one object a line as .jsonl.")


def _at_end(stream: JsonStream) -> None:
    if stream.peek():
        raise JsonStreamError(stream.line, "more text follows the end of the JSON value")


def _items(stream: JsonStream) -> Iterator[Row]:
    for line, _ in stream.members():
        value = stream.value()
        if isinstance(value, dict):
            yield line, value
        else:
            yield line, Fault(f"the item is {_kind_of(value)}, not an object; write a list of objects")


def _shape(stream: JsonStream, path: Path) -> tuple[str, list[str]]:
    """What an object at the top is: columns, a wrapper around one list of records, or a lone record."""
    columns: list[str] = []
    lists: list[str] = []
    scalars = 0
    for _, name in stream.members():
        opening = stream.peek()
        if opening not in ("[", "{"):
            scalars += 1
            stream.value()
            continue
        inner: list[Any] = []
        for _ in stream.members():
            value = stream.value()
            if not inner:
                inner.append(value)
        if opening == "[" and inner and isinstance(inner[0], dict):
            if inner[0].keys() & {"role", "from"}:
                scalars += 1  # the messages of one chat, not a list of records
            else:
                lists.append(str(name))
        elif inner:
            columns.append(str(name))
    _at_end(stream)
    if len(lists) == 1:
        return "wrapper", lists
    if len(lists) > 1 and not scalars and not columns:
        raise CorpusError(f"{path}: holds several lists of objects ({', '.join(map(repr, lists[:6]))}); keep one.")
    return ("columns", columns) if columns and not scalars else ("record", [])


def _columns(path: Path, names: list[str]) -> Iterator[Row]:
    """Rows of an object of columns: one cursor a column, each in its own pass, so no column is held whole."""
    with contextlib.ExitStack() as stack:
        cursors = [_column(path, name, stack) for name in names]
        number = 0
        while True:
            number += 1
            cells = [next(cursor, _END) for cursor in cursors]
            ended = [cell is _END for cell in cells]
            if all(ended):
                return
            if any(ended):
                short, long = names[ended.index(True)], names[ended.index(False)]
                raise CorpusError(
                    f"{path}: column {short!r} ends after {number - 1} rows but {long!r} goes on; make them equal."
                )
            yield number, dict(zip(names, cells, strict=True))


_END = object()


def _column(path: Path, wanted: str, stack: contextlib.ExitStack) -> Iterator[Any]:
    stream = JsonStream(decoded_chunks(stack.enter_context(opened(path)), path))
    try:
        for _, name in stream.members():
            if name == wanted:
                for _ in stream.members():
                    yield stream.value()
                return
            stream.skip()
    except JsonStreamError as fault:
        raise _broken(path, fault) from None


def _csv(path: Path) -> Iterator[Row]:
    with opened(path) as stream:
        numbered = decoded_lines(stream, path)
        first = next(numbered, (0, ""))[1]
        delimiter = _delimiter(first, path)

        def lines() -> Iterator[str]:
            yield first
            for _, line in numbered:
                yield line

        rows = csv.reader(lines(), delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            start = rows.line_num + 1
            # The limit belongs to the whole process, so it is lent for one row only.
            limit = csv.field_size_limit(_FIELD_LIMIT)
            try:
                row = next(rows, None)
            except csv.Error as fault:
                raise CorpusError(
                    f"{path}, line {start}: not valid CSV ({fault}); mend the quoting of this row."
                ) from None
            finally:
                csv.field_size_limit(limit)
            if row is None:
                return
            if header is None:
                header = [name.strip() for name in row]
                twice = sorted({name for name in header if header.count(name) > 1})
                if twice:
                    raise CorpusError(
                        f"{path}, line 1: the header names {twice[0]!r} twice; give every column its own name."
                    )
            elif len(row) == len(header):
                yield start, dict(zip(header, row, strict=True))
            elif row:
                yield (
                    start,
                    Fault(f"the row has {len(row)} fields, the header {len(header)}; quote the fields"),
                )


def _delimiter(header: str, path: Path) -> str:
    """Comma, unless the header has none and another common one."""
    if ".tsv" in path.suffixes:
        return "\t"
    return "," if "," in header else next((mark for mark in ("\t", ";", "|") if mark in header), ",")


def _parquet(path: Path, columns: Columns | None) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_seekable(path))
        try:
            parquet = pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER)
            names = list(parquet.schema_arrow.names)
            names = columns(names) if columns is not None else names
            number = 0
            pool = pyarrow.default_memory_pool()
            for batch in parquet.iter_batches(batch_size=_BATCH, columns=names or None):
                rows = batch.to_pylist()
                del batch
                # The allocator would keep every page it ever held.
                pool.release_unused()
                for row in rows:
                    number += 1
                    yield number, row
        except pyarrow.ArrowException as fault:
            reason = str(fault).splitlines()[0].rstrip(".")
            raise CorpusError(f"{path}: damaged Parquet ({reason}); write the file again.") from None


@contextlib.contextmanager
def _seekable(path: Path) -> Iterator[Any]:
    """The file itself, or its unpacked bytes in a temporary file on disk: Parquet is read from its end."""
    with open(path, "rb") as raw:
        plain = raw.read(4) == b"PAR1"
        raw.seek(0)
        if plain:
            yield raw
            return
    with opened(path) as packed, tempfile.TemporaryFile() as spool:
        while piece := packed.read(1 << 20):
            spool.write(piece)
        spool.seek(0)
        yield spool
