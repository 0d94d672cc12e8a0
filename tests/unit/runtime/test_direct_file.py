"""A file written past the page cache: the same bytes, whatever the pieces and whatever the file system."""

import errno
import os
import random
from pathlib import Path
from typing import Any

import pytest

from anneal_runtime import direct_file
from anneal_runtime.direct_file import BLOCK, BUFFER, DirectFile

SIZES = (0, 1, BLOCK - 1, BLOCK, BUFFER - 1, BUFFER, BUFFER + 1, 2 * BUFFER + BLOCK + 7)


@pytest.fixture(scope="module")
def content() -> bytes:
    return random.Random(0).randbytes(max(SIZES))


@pytest.fixture(params=["direct", "cached"])
def opened(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Flags of what was opened; `cached` is a file system without direct writes."""
    flags: list[int] = []
    really = os.open

    def open_(path: Any, how: int, mode: int = 0o777) -> int:
        flags.append(how & os.O_DIRECT)
        if how & os.O_DIRECT and request.param == "cached":
            raise OSError(errno.EINVAL, "Invalid argument")
        return really(path, how, mode)

    monkeypatch.setattr(direct_file.os, "open", open_)
    return flags


@pytest.mark.parametrize("size", SIZES)
def test_the_file_has_the_bytes(tmp_path: Path, content: bytes, opened: list[int], size: int) -> None:
    with DirectFile(tmp_path / "file") as file:
        file.write(content[:size])
    assert (tmp_path / "file").read_bytes() == content[:size]
    assert opened[0] == os.O_DIRECT


def test_pieces_of_any_length_add_up(tmp_path: Path, content: bytes) -> None:
    lengths = random.Random(1)
    with DirectFile(tmp_path / "file") as file:
        at = 0
        while at < len(content):
            piece = memoryview(content)[at : at + lengths.choice([1, 13, 4096, 1 << 20, 5 << 20])]
            file.write(piece)
            at += len(piece)
    assert (tmp_path / "file").read_bytes() == content


def test_an_older_file_of_that_name_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 3 * BLOCK)
    with DirectFile(tmp_path / "file") as file:
        file.write(b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_full_disk_is_told_and_the_file_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(direct_file.os, "write", full)
    with pytest.raises(OSError, match="No space"), DirectFile(tmp_path / "file") as file:
        file.write(b"x")
    assert len(os.listdir("/proc/self/fd")) == before


def test_other_errors_of_opening_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DirectFile(tmp_path / "none" / "file")
