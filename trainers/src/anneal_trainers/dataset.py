"""A dataset artifact: token ids of every row in the smallest integer type, memory-mapped, one set of files a split.

<split>.tokens.npy   uint16 (vocabularies up to 65,536) or uint32, all rows one after another
<split>.learned.npy  uint8, 1 where the token is a target
<split>.offsets.npy  int64 [rows + 1], where rows begin
<split>.tasks.npy    int32 [rows], index into the tasks of rows.json
<split>.digests.npy  uint8 [rows, 32], sha256 of the row's ids, whatever task or text they came from
"""

import json
from collections.abc import Set
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
ROWS_FILE = "rows.json"
_PARTS = ("tokens", "learned", "offsets", "tasks", "digests")


@dataclass(frozen=True)
class Split:
    """Rows of one part; arrays are memory-mapped, so opening costs nothing."""

    tokens: npt.NDArray[Any]
    learned: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    tasks: npt.NDArray[np.int32]
    digests: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.tasks)

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row."""
        return np.diff(self.offsets)

    @cached_property
    def targets(self) -> npt.NDArray[np.int64]:
        """Learned tokens of each row, counted once: that reads the whole file."""
        if len(self) == 0:
            return np.zeros(0, np.int64)
        return np.add.reduceat(self.learned, self.offsets[:-1], dtype=np.int64)

    def row(self, index: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Return ids and learned flags of a row."""
        where = slice(self.offsets[index], self.offsets[index + 1])
        return self.tokens[where].astype(np.int64), self.learned[where].astype(bool)


def open_split(folder: Path, name: SplitName) -> Split:
    """Return a split of the dataset in `folder`."""
    return Split(*(_load(folder / f"{name}.{part}.npy") for part in _PARTS))


def task_names(folder: Path) -> list[str]:
    """Return the tasks of the dataset in `folder`, in the order of their indices."""
    return [task["name"] for task in json.loads((folder / ROWS_FILE).read_text())["tasks"]]


@dataclass
class SplitWriter:
    """Collects the rows of a split and writes them."""

    token_type: type[np.unsignedinteger[Any]]
    _tokens: list[npt.NDArray[Any]] = field(default_factory=list)
    _learned: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    _tasks: list[int] = field(default_factory=list)
    _digests: list[bytes] = field(default_factory=list)

    def add(self, ids: list[int], learned: list[bool], task: int, digest: bytes) -> None:
        """Append a row; its first token is never learned, as nothing precedes it."""
        self._tokens.append(np.asarray(ids, self.token_type))
        self._learned.append(np.asarray([False, *learned[1:]], np.uint8))
        self._tasks.append(task)
        self._digests.append(digest)

    @property
    def digests(self) -> list[bytes]:
        """Digests of the rows so far."""
        return self._digests

    def drop(self, digests: Set[bytes]) -> list[tuple[int, int]]:
        """Forget the rows with one of `digests`; return task and length of each."""
        kept = [place for place, digest in enumerate(self._digests) if digest not in digests]
        gone = sorted({*range(len(self._digests))} - {*kept})
        told = [(self._tasks[place], len(self._tokens[place])) for place in gone]
        self._tokens = [self._tokens[place] for place in kept]
        self._learned = [self._learned[place] for place in kept]
        self._tasks = [self._tasks[place] for place in kept]
        self._digests = [self._digests[place] for place in kept]
        return told

    def write(self, folder: Path, name: SplitName) -> None:
        """Write the split's files into `folder`."""
        lengths = [len(ids) for ids in self._tokens]
        arrays = (
            np.concatenate([np.zeros(0, self.token_type), *self._tokens]),
            np.concatenate([np.zeros(0, np.uint8), *self._learned]),
            np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
            np.asarray(self._tasks, np.int32),
            np.frombuffer(b"".join(self._digests), np.uint8).reshape(-1, 32),
        )
        for part, array in zip(_PARTS, arrays, strict=True):
            np.save(folder / f"{name}.{part}.npy", array)


def token_type(vocabulary: int) -> type[np.unsignedinteger[Any]]:
    """Return the smallest integer type that holds every id."""
    return np.uint16 if vocabulary <= 1 << 16 else np.uint32


def _load(path: Path) -> Any:
    # An empty array cannot be mapped.
    return np.load(path, mmap_mode=None if path.stat().st_size < 4096 else "r")
