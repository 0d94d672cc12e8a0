"""Every kind of file is read; what is damaged is told by file and line, never a crash, and left out if asked."""

import gzip
import io
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from fsspec.implementations.dirfs import DirFileSystem
from hypothesis import given
from hypothesis import strategies as some

from anneal_api.finetunejob import Data, Task
from anneal_runtime.errors import Refused
from anneal_trainers.data import readers, sources
from anneal_trainers.data.sources import Found

ROW = json.dumps({"text": "hello"}) + "\n"
DROP = Data(wrong_rows="drop")


def task(path: Path, shape: str = "auto") -> Task:
    return Task.model_validate({"name": "t", "data": {"uri": f"file://{path}", "format": shape}})


def read(path: Path, shape: str = "auto") -> list[Found]:
    return list(sources.found(task(path, shape), DROP))


def test_a_folder_of_all_kinds_is_read_in_order_of_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\ufeff" + ROW + "\n" + ROW)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(ROW.encode()))
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(ROW.encode()) * 2)
    pyarrow.parquet.write_table(pyarrow.table({"text": ["hello", "hello"]}), tmp_path / "d.parquet")
    (tmp_path / "notes.txt").write_text("not rows")
    for folder in (".git", "e"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jsonl").write_text(ROW)
    found = list(sources.found(task(tmp_path), Data()))
    assert [(each.file, each.line) for each in found] == [
        ("a.jsonl", 1),
        ("a.jsonl", 3),
        ("b.jsonl.gz", 1),
        ("c.jsonl.zst", 1),
        ("c.jsonl.zst", 2),
        ("d.parquet", 1),
        ("d.parquet", 2),
        ("e/a.jsonl", 1),
    ]
    assert [each.row.text for each in found if each.row] == ["hello"] * 8
    assert sources.count(task(tmp_path)) == 8


@given(some.lists(some.sampled_from([ROW, "\n", "{\n"]), max_size=8), some.integers(1, 200), some.booleans())
def test_every_line_is_in_the_part_where_it_begins(lines: list[str], at: int, ends: bool) -> None:
    content = "".join(lines).removesuffix("" if ends else "\n").encode()
    at = min(at, len(content))
    whole, first, second = (
        list(readers.values("x.jsonl", io.BytesIO(content), *part))
        for part in ((), (0, at), (at, len(content)))
    )
    before = readers.lines_begun(io.BytesIO(content), 0, at)
    joined = first + [(before + number, value) for number, value in second]
    assert [(n, str(value)) for n, value in joined] == [(n, str(value)) for n, value in whole]


def test_a_wrong_line_of_a_part_is_named_by_its_place_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(ROW * 5 + "{\n" + ROW)
    (file,) = sources.files(task(tmp_path))
    with pytest.raises(Refused, match="x.jsonl, line 6"):
        list(sources.found(task(tmp_path), Data(), [replace(file, begin=3 * len(ROW), end=file.size)]))


@pytest.mark.parametrize("content", ["{", '{"other": 1}', "[1]"])
def test_a_wrong_line_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.jsonl").write_text(ROW + content + "\n")
    with pytest.raises(Refused, match=r"task t: x.jsonl, line 2: expected .* spec.data.wrongRows") as caught:
        list(sources.found(task(tmp_path), Data()))
    assert caught.value.reason == "InvalidRows"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"text": "\xff\xfe"}', "expected UTF-8"),
        (b'{"text": "a\0b"}', "expected one JSON object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"text": ' + b"9" * 5000 + b"}", "expected"),
        (b'{"text": "\\ud800"}', "Unicode"),
        (b'{"text": "' + b"x" * 5000 + b'"}', "at most 4096 bytes"),
    ],
)
def test_a_damaged_line_is_one_wrong_row_and_the_next_is_read(
    tmp_path: Path, line: bytes, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if told.startswith("at most"):
        monkeypatch.setattr(readers, "LINE_LIMIT", 4096)
        monkeypatch.setattr(readers, "_CHUNK", 1024)
    (tmp_path / "x.jsonl").write_bytes(line + b"\n" + ROW.encode())
    wrong, right = read(tmp_path)
    assert (wrong.line, wrong.reason) == (1, "wrongRow")
    assert told in wrong.detail
    assert (right.line, right.row is not None) == (2, True)


LONG = 2 << 30
MEMBER = b"x" * (64 << 20)
PACKED = {".gz": lambda part: gzip.compress(part, 1), ".zst": zstandard.compress}


def long_line(path: Path) -> None:
    """Write a line of 2 GiB before a row: of zeros that take no room on disk, or packed in many equal parts."""
    pack = PACKED.get(path.suffix)
    with path.open("wb") as stream:
        if pack is None:
            stream.seek(LONG)
        else:
            stream.write(pack(b'{"text": "') + pack(MEMBER) * (LONG // len(MEMBER)))
        stream.write((pack or bytes)(b'"}\n' + ROW.encode()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["x.jsonl", pytest.param("x.jsonl.gz", marks=pytest.mark.full), "x.jsonl.zst"]
)
def test_a_line_of_two_gigabytes_is_told_and_never_held(tmp_path: Path, name: str) -> None:
    long_line(tmp_path / name)
    tracemalloc.start()
    try:
        wrong, right = read(tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (wrong.line, wrong.detail) == (1, f"expected at most {readers.LINE_LIMIT} bytes a line")
    assert (right.line, right.row and right.row.text) == (2, "hello")
    assert peak < 5 * readers.LINE_LIMIT < LONG / 6


def damaged() -> dict[str, bytes]:
    packed = gzip.compress(ROW.encode() * 1000, mtime=0)
    frame = zstandard.compress(bytes(range(256)) * 100 + ROW.encode() * 100)
    rows = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table({"text": ["hello"] * 1000}), rows)
    table = rows.getvalue().to_pybytes()
    return {
        "truncated.jsonl.gz": packed[:-20],
        "broken.jsonl.gz": packed[:40] + b"\xff" * 8 + packed[48:],
        "none.jsonl.gz": b"no gzip",
        "trailing.jsonl.gz": packed + b"more",
        "truncated.jsonl.zst": frame[:-9],
        "none.jsonl.zst": b"no zstandard",
        "truncated.parquet": table[:-30],
        "none.parquet": b"",
    }


@pytest.mark.parametrize("name", sorted(damaged()))
def test_a_damaged_file_is_told_at_its_end(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(damaged()[name])
    *_, last = read(tmp_path)
    assert (last.row, last.reason) == (None, "wrongRow")
    assert "cannot be read from here on" in last.detail


def saved(folder: Path) -> None:
    """Write what datasets.save_to_disk writes, and a cache file beside it."""
    folder.mkdir()
    table = pyarrow.table({"prompt": ["a", None], "answer": ["b", "c"], "messages": [None, None]})
    for name in ("data-00000-of-00001.arrow", "cache-1.arrow"):
        with (
            pyarrow.OSFile(str(folder / name), "wb") as sink,
            pyarrow.ipc.new_stream(sink, table.schema) as out,
        ):
            out.write_table(table)
    (folder / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})
    )


def test_a_data_set_saved_to_disk_is_read_without_its_empty_columns(tmp_path: Path) -> None:
    saved(tmp_path / "train")
    right, wrong = read(tmp_path / "train")
    assert right.row is not None
    assert right.row.messages == (("user", "a"), ("assistant", "b"))
    assert "prompt/answer" in wrong.detail
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(Refused, match="name one of them .*/train"):
        read(tmp_path)


def test_files_of_code_are_rows_and_others_are_told(tmp_path: Path) -> None:
    files: dict[str, Any] = {
        "src/a.py": b"x = 1\n",
        ".git/b.py": b"x",
        "c.png": b"\x89",
        "d.py": b"\xff",
        "e.py": b"a\0",
        "f.py": b" \n",
        "tool": b"#!/bin/sh\n",
        "g.py": b"#" * 100,
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "loop").symlink_to(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "CODE_LIMIT", 99)
        found = {each.file: each for each in read(tmp_path, "code")}
    rows = {name: (each.row.path, each.row.language) for name, each in found.items() if each.row}
    assert rows == {"src/a.py": ("src/a.py", "python"), "tool": ("tool", "shell")}
    assert {name: each.reason for name, each in found.items() if not each.row} == {
        "c.png": "unknownLanguage",
        "d.py": "notUtf8",
        "e.py": "binary",
        "f.py": "empty",
        "g.py": "tooLarge",
    }
    assert sources.count(task(tmp_path, "code")) == 7


def test_a_missing_path_and_a_folder_without_rows_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(Refused) as caught:
            read(path)
        assert caught.value.reason == "DatasetNotFound"


def test_the_first_row_that_has_a_shape_decides_for_rows_of_every_file(tmp_path: Path) -> None:
    """A shard may read the second file alone."""
    (tmp_path / "a.jsonl").write_text("{\n" + json.dumps({"text": "t", "prompt": "p"}) + "\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({"prompt": "p", "answer": "a", "text": "t"}) + "\n")
    second = sources.files(task(tmp_path))[1:]
    (row,) = sources.found(task(tmp_path), DROP, second)
    assert (row.row and row.row.text, row.file) == ("t", "b.jsonl")


@pytest.mark.parametrize("shape", ["auto", "code"])
def test_rows_and_code_are_read_from_an_object_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    """Names there begin with the bucket, as those of s3fs and huggingface_hub do."""
    (tmp_path / "bucket" / "data" / "inner").mkdir(parents=True)
    (tmp_path / "bucket" / "data" / "a.jsonl").write_text(ROW)
    (tmp_path / "bucket" / "data" / "inner" / "b.py").write_text("x = 1\n")
    monkeypatch.setattr(fsspec, "filesystem", lambda scheme, **options: DirFileSystem(str(tmp_path)))
    for scheme in ("s3", "hf"):
        remote = Task.model_validate(
            {"name": "t", "data": {"uri": f"{scheme}://bucket/data", "format": shape}}
        )
        found = [(each.file, each.line, each.reason) for each in sources.found(remote, DROP)]
        code = [("a.jsonl", 0, "unknownLanguage"), ("inner/b.py", 1, "")]
        assert found == (code if shape == "code" else [("a.jsonl", 1, "")])
        assert sources.count(remote) == len(found)
        assert sources.files(remote)[0].size == len(ROW)
