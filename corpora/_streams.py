"""Opening files: compression by content, one-sentence errors, and UTF-8 that says where it breaks."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from ..errors import CorpusError, KinfoldError

__all__ = ["CHUNK", "HEAD", "LONGEST", "decoded_chunks", "decoded_lines", "head", "opened"]

CHUNK = 1 << 18
HEAD = 1 << 16
LONGEST = 1 << 27  # bytes of one line

_BITES = (1 << 8, 1 << 12)  # compressed bytes unpacked at once, at first and at most

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_FOREIGN = {
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
}
_WIDE = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open `path` for reading bytes, decompressed where its first bytes say gzip or Zstandard, whatever its name says.

    Raises
    ------
    CorpusError
        For every way in which opening or reading can fail, on entry or later inside the block.
    """
    try:
        with contextlib.ExitStack() as stack:
            raw = stack.enter_context(open(path, "rb"))
            start = raw.peek(8)[:8]
            stream: IO[bytes] = raw
            if start.startswith(_GZIP):
                stream = cast("IO[bytes]", stack.enter_context(gzip.GzipFile(fileobj=raw)))
            elif start.startswith(_ZSTD):
                stream = stack.enter_context(_zstd(raw, path))
            else:
                for magic, name in _FOREIGN.items():
                    if start.startswith(magic):
                        raise CorpusError(f"{path}: is a {name} archive; unpack it, or compress with gzip or zstd.")
            yield stream
    except KinfoldError:
        raise
    except FileNotFoundError:
        raise CorpusError(f"{path}: no such file; check the path.") from None
    except IsADirectoryError:
        raise CorpusError(f"{path}: is a folder, not a file; name a file in it.") from None
    except PermissionError:
        raise CorpusError(f"{path}: may not be read; check its permissions.") from None
    except (gzip.BadGzipFile, zlib.error) as fault:
        raise CorpusError(f"{path}: the gzip data are damaged ({fault}); compress the file again.") from None
    except EOFError:
        raise CorpusError(f"{path}: the compressed data end too early; copy the file again.") from None
    except OSError as fault:
        raise CorpusError(f"{path}: cannot be read ({fault.strerror or fault}); check the file and its disk.") from None


def _zstd(raw: IO[bytes], path: Path) -> IO[bytes]:
    try:
        import zstandard
    except ImportError:
        raise CorpusError(
            f"{path}: needs the package zstandard to be read; run `pip install zstandard` or unpack the file."
        ) from None
    return io.BufferedReader(_ZstdRaw(raw, zstandard), CHUNK)


class _ZstdRaw(io.RawIOBase):
    """Zstandard frames as a readable stream.

    The library's own stream reader takes a file that was cut off for a finished one; this one raises EOFError.
    """

    def __init__(self, raw: IO[bytes], library: Any) -> None:
        self._raw = raw
        self._library = library
        self._frame: Any = None
        self._input = b""
        self._output = memoryview(b"")
        self._bite = _BITES[0]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            if not self._input:
                # What one bite unpacks to is held in memory, and four bytes may unpack to 128 KiB: bites begin small
                # and grow only while they unpack to little.
                self._input = self._raw.read(self._bite)
                if not self._input:
                    if self._frame is not None:
                        raise EOFError
                    return 0
            if self._frame is None:
                self._frame = self._library.ZstdDecompressor().decompressobj()
            try:
                self._output = memoryview(self._frame.decompress(self._input))
            except self._library.ZstdError as fault:
                raise OSError(None, f"the zstd data are damaged: {fault}") from None
            self._bite = min(_BITES[1], 2 * self._bite) if len(self._output) <= CHUNK else _BITES[0]
            self._input = b""
            if self._frame.eof:
                self._input, self._frame = self._frame.unused_data, None
        size = min(len(buffer), len(self._output))
        buffer[:size] = self._output[:size]
        self._output = self._output[size:]
        return size


def head(path: Path, size: int = HEAD) -> bytes:
    """The first `size` bytes of `path`, decompressed; fewer where the file is shorter.

    Raises
    ------
    CorpusError
        When the file cannot be read or is no UTF-8 by its byte order mark.
    """
    with opened(path) as stream:
        start = stream.read(size)
    if start.startswith(_WIDE):
        raise CorpusError(f"{path}: is written in UTF-16 or UTF-32; save it as UTF-8.")
    return start


def decoded_lines(stream: IO[bytes], path: Path) -> Iterator[tuple[int, str]]:
    r"""Number (from 1) and text of each line, its line end included; only ``\n`` ends a line.

    Raises
    ------
    CorpusError
        At the first line that is not UTF-8, with line, column and byte, or that is too long to be held.
    """
    offset = 0
    for number, raw in enumerate(iter(partial(stream.readline, LONGEST), b""), start=1):
        if len(raw) == LONGEST and not raw.endswith(b"\n"):
            raise CorpusError(
                f"{path}, line {number}: is longer than {LONGEST >> 20} MiB; write one record a line, and long texts "
                "in parts."
            )
        if number == 1 and raw.startswith(codecs.BOM_UTF8):
            offset, raw = 3, raw[3:]
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as fault:
            raise _not_utf8(path, number, offset + fault.start, raw[fault.start]) from None
        yield number, text
        offset += len(raw)


def decoded_chunks(stream: IO[bytes], path: Path, size: int = CHUNK) -> Iterator[str]:
    """The text in pieces of at most `size` bytes, without its byte order mark.

    Raises
    ------
    CorpusError
        At the first byte that is not UTF-8, with line and byte.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, line = 0, 1
    while True:
        raw = stream.read(size)
        if offset == 0 and raw.startswith(codecs.BOM_UTF8):
            offset, raw = 3, raw[3:]
        held = len(decoder.getstate()[0])
        try:
            text = decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as fault:
            start = fault.start
            line += fault.object[:start].count(b"\n")
            raise _not_utf8(path, line, offset - held + start, fault.object[start]) from None
        if not raw:
            return
        offset += len(raw)
        line += text.count("\n")
        yield text


def _not_utf8(path: Path, line: int, offset: int, byte: int) -> CorpusError:
    return CorpusError(
        f"{path}, line {line}: byte 0x{byte:02x} at offset {offset} is not UTF-8; "
        "save the file as UTF-8 (for example with iconv)."
    )
