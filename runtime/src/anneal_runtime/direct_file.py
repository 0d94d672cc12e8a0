"""A file that is written past the page cache.

The cache is a second copy of what is written: it takes a processor five times as long as handing the bytes to the
disk, which steps of training beside it feel, and it pushes out what will be read again. open(2), O_DIRECT: addresses,
lengths and offsets are multiples of the disk's block, so bytes pass through a buffer of whole pages.
"""

import errno
import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Self

BUFFER = 4 << 20
"""Bytes that are handed over at once: fewer, and the disk waits for the next."""
BLOCK = 4096


class DirectFile:
    """A new file, written from its begin to its end; where a file system knows no other way, through its cache.

    Nothing is promised to outlive the machine before `storage.flush_to_disk`.
    """

    def __init__(self, path: Path) -> None:
        self._file = _create(path)
        self._buffer = mmap.mmap(-1, BUFFER)
        self._filled = 0
        self._size = 0

    def write(self, content: bytes | memoryview) -> None:
        """Append bytes; raises OSError as a file does."""
        view = memoryview(content)
        self._size += len(view)
        while view:
            part = view[: BUFFER - self._filled]
            self._buffer[self._filled : self._filled + len(part)] = part
            self._filled, view = self._filled + len(part), view[len(part) :]
            if self._filled == BUFFER:
                self._hand_over(BUFFER)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is left, as whole blocks, and cut the file to its size; after an error only close it."""
        try:
            if kind is None:
                self._hand_over(-(-self._filled // BLOCK) * BLOCK)
                os.ftruncate(self._file, self._size)
        finally:
            os.close(self._file)

    def _hand_over(self, count: int) -> None:
        whole, done = memoryview(self._buffer), 0
        while done < count:
            done += os.write(self._file, whole[done:count])
        self._filled = 0


def _create(path: Path) -> int:
    plain = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        return os.open(path, plain | os.O_DIRECT, 0o666)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, plain, 0o666)
