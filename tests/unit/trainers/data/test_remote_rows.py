"""Rows of a remote store, whose files are fsspec's own and not the interpreter's, read like local ones."""

import gzip
import io
import json
from typing import Any, BinaryIO, cast

import fsspec
import pyarrow
import pytest
import zstandard
from fsspec.spec import AbstractBufferedFile
from pyarrow import parquet

from anneal_trainers.data import readers

ROWS = [{"text": f"row {number} " + "x" * 3000} for number in range(40)]
PLAIN = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


class Remote(AbstractBufferedFile):  # type: ignore[misc]
    """A file that is fetched by ranges, as those of S3 and of Hugging Face's hub are."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        super().__init__(fsspec.filesystem("memory"), "/file", block_size=4096, size=len(content))

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self.content[start:end]


def as_parquet() -> bytes:
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), out)
    return out.getvalue()


def as_arrow() -> bytes:
    out, table = io.BytesIO(), pyarrow.Table.from_pylist(ROWS)
    with pyarrow.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


FILES = {
    "a.jsonl": lambda: PLAIN,
    "a.jsonl.gz": lambda: gzip.compress(PLAIN),
    "a.jsonl.zst": lambda: zstandard.ZstdCompressor().compress(PLAIN),
    "a.parquet": as_parquet,
    "a.arrow": as_arrow,
}


@pytest.mark.parametrize("name", FILES)
def test_rows_are_the_same_from_afar(name: str) -> None:
    content = FILES[name]()
    read: list[list[tuple[int, Any]]] = [
        list(readers.values(name, cast(BinaryIO, raw))) for raw in (Remote(content), io.BytesIO(content))
    ]
    assert read[0] == read[1]
    assert [row for _, row in read[0]] == ROWS
    assert readers.count(name, cast(BinaryIO, Remote(content))) == len(ROWS)


def test_a_line_that_is_too_long_is_skipped_from_afar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "LINE_LIMIT", 5000)
    content = b'{"text": "' + b"y" * 20_000 + b'"}\n' + PLAIN
    found = list(readers.values("a.jsonl", cast(BinaryIO, Remote(content))))
    assert "at most 5000 bytes" in str(found[0][1])
    assert [row for _, row in found[1:]] == ROWS
