"""Files become values, one a row, whatever the file holds: what cannot be read is a WrongRow in its place.

Lines are bounded, compression is read as a stream and Parquet by row groups, so no file has to fit in memory.
"""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import zstandard

from anneal_runtime.errors import Refused
from anneal_trainers.data.formats import WrongRow

DIVISIBLE = ".jsonl"
"""Of such a file any part can be read."""
LINES = (DIVISIBLE, ".jsonl.gz", ".jsonl.zst")
PARQUET = ".parquet"
ARROW = ".arrow"
SUFFIXES = (*LINES, PARQUET)
LINE_LIMIT = 64 << 20
"""Bytes of the longest line that is read; a longer one is skipped without being held."""
_CHUNK = 1 << 20
_PACKED = 1 << 11
"""Bytes that are decompressed at once where nothing bounds what comes of them: of a text of one letter 64 MiB."""
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError)

Values = Iterator[tuple[int, Any]]
"""The number of a row in its file, from 1, and its value or a WrongRow."""


def values(path: str, raw: BinaryIO, begin: int = 0, end: int | None = None) -> Values:
    """Yield the rows of a file, by the kind its name says; of a divisible one the lines that begin in a range of bytes,
    numbered from 1.
    """
    if path.endswith(PARQUET):
        return _parquet_values(raw)
    return _arrow_values(raw) if path.endswith(ARROW) else _line_values(path, raw, begin, end)


def count(path: str, raw: BinaryIO) -> int:
    """Return how many rows `values` would yield, without parsing lines."""
    if path.endswith(LINES):
        return sum(1 for _ in _lines(path, raw))
    return sum(1 for _ in values(path, raw))


def lines_begun(raw: BinaryIO, begin: int, end: int) -> int:
    """Return how many lines begin in a range of bytes."""
    left = end - 1 - raw.seek(max(begin - 1, 0))
    count = int(begin == 0 < end)
    while left > 0 and (chunk := raw.read(min(_CHUNK, left))):
        count, left = count + chunk.count(b"\n"), left - len(chunk)
    return count


def _line_values(path: str, raw: BinaryIO, begin: int, end: int | None) -> Values:
    for number, line in _lines(path, raw, begin, end):
        yield number, line if isinstance(line, WrongRow) else _parsed(line)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as error:
        return WrongRow(f"expected UTF-8: {error.reason} at byte {error.start}")
    except RecursionError:
        return WrongRow("expected one JSON object a line: it is nested too deeply")
    except ValueError as error:  # also integers of thousands of digits
        return WrongRow(f"expected one JSON object a line: {error}")


def _lines(
    path: str, raw: BinaryIO, begin: int = 0, end: int | None = None
) -> Iterator[tuple[int, bytes | WrongRow]]:
    """Yield lines that are not blank; a damaged file ends with a WrongRow."""
    number = 0
    try:
        with _opened(path, raw) as stream:
            if begin:  # the line that goes on here is another part's, unless the byte before ends it
                stream.seek(begin - 1)
                _skip_line(stream, stream.readline(_CHUNK))
            while (end is None or stream.tell() < end) and (line := stream.readline(LINE_LIMIT + 1)):
                number += 1
                if len(line) > LINE_LIMIT:
                    _skip_line(stream, line)
                    yield number, WrongRow(f"expected at most {LINE_LIMIT} bytes a line")
                elif bare := line.removeprefix(b"\xef\xbb\xbf" if number == 1 and not begin else b"").strip():
                    yield number, bare
    except _DAMAGED as error:
        yield number + 1, WrongRow(f"the file cannot be read from here on: {error}")


def _skip_line(stream: BinaryIO, line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = stream.readline(_CHUNK)


def _opened(path: str, raw: BinaryIO) -> BinaryIO:
    if path.endswith(".gz"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    # A file of a remote store has a readline of its own, which knows no limit.
    plain = io.BufferedReader(cast(io.RawIOBase, raw), _CHUNK)
    return io.BufferedReader(_Zstandard(plain), _CHUNK) if path.endswith(".zst") else plain


class _Zstandard(io.RawIOBase):
    """Decompressed frames, one after the other; unlike the library's reader it notices a frame without an end."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._frame: Any = None
        self._ready = memoryview(b"")
        self._rest = b""

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._raw.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while not self._ready and self._more():
            pass
        part, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)

    def _more(self) -> bool:
        """Decompress a chunk; return whether there was one."""
        chunk = self._rest or self._raw.read(_PACKED)
        if not chunk:
            if self._frame is not None:
                raise EOFError("the last frame has no end")
            return False
        self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
        self._ready = memoryview(self._frame.decompress(chunk))
        self._rest = self._frame.unused_data
        if self._frame.eof:
            self._frame = None
        return True


def _parquet_values(raw: BinaryIO) -> Values:
    pyarrow = _pyarrow()
    from pyarrow import parquet

    def batches() -> Iterator[Any]:
        yield from parquet.ParquetFile(raw).iter_batches(batch_size=1024)

    return _batch_values(pyarrow, batches())


def _arrow_values(raw: BinaryIO) -> Values:
    """Yield the rows of an Arrow stream, as Hugging Face datasets are saved to disk."""
    pyarrow = _pyarrow()

    def batches() -> Iterator[Any]:
        with pyarrow.ipc.open_stream(raw) as stream:
            yield from stream

    return _batch_values(pyarrow, batches())


def _batch_values(pyarrow: Any, batches: Iterator[Any]) -> Values:
    number = 0
    try:
        for batch in batches:
            for place in range(batch.num_rows):
                number += 1
                yield number, _batch_row(batch.slice(place, 1))
    except (pyarrow.ArrowException, OSError, EOFError) as error:
        yield number + 1, WrongRow(f"the file cannot be read from here on: {error}")


def _batch_row(row: Any) -> Any:
    try:
        (value,) = row.to_pylist()
    except UnicodeDecodeError as error:
        return WrongRow(f"expected UTF-8: {error.reason}")
    return {key: part for key, part in value.items() if part is not None}


def _pyarrow() -> Any:
    try:
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise Refused(
            "ParquetNotInstalled",
            "spec.tasks[].data.uri: Parquet and saved data sets need pyarrow, which this image lacks; install "
            "anneal-trainers[parquet] or give JSON lines",
        ) from error
    return pyarrow
