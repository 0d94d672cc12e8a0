"""What a rank prints: passed on to the pod's log at once, its end kept for the records of a failed attempt."""

import contextlib
import os
import threading
from typing import BinaryIO

KEPT_BYTES = 64 * 1024


class Tail:
    """The last KEPT_BYTES of what was added."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._total = 0
        self._lock = threading.Lock()

    def add(self, printed: bytes) -> None:
        """Take in what a rank printed."""
        with self._lock:
            self._kept += printed
            self._total += len(printed)
            if len(self._kept) > 2 * KEPT_BYTES:
                del self._kept[:-KEPT_BYTES]

    def mark(self) -> int:
        """Return a place for `since`: that of what is added next."""
        with self._lock:
            return self._total

    def since(self, mark: int = 0) -> bytes:
        """Return what was added since `mark` was taken, at most the last KEPT_BYTES."""
        with self._lock:
            count = min(self._total - mark, KEPT_BYTES)
            return bytes(self._kept[-count:]) if count else b""

    def text(self) -> str:
        """Return all that is kept."""
        return self.since().decode(errors="replace")


def forward(stream: BinaryIO, tail: Tail, descriptor: int) -> None:
    """Copy `stream`, line by line, to `descriptor` and `tail` until it ends; a log that is closed stops no rank."""
    with stream:
        while line := stream.readline(KEPT_BYTES):
            tail.add(line)
            with contextlib.suppress(OSError):
                _write(descriptor, line)


def _write(descriptor: int, line: bytes) -> None:
    while line:  # a signal may end a write of more than the pipe has room for
        line = line[os.write(descriptor, line) :]
