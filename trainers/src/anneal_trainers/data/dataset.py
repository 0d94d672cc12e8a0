"""A dataset artifact: token ids of every row in the smallest integer type, memory-mapped, one set of files a split.

<split>.tokens.npy      uint16 (vocabularies up to 65,536) or uint32, all rows one after another
<split>.learned.npy     uint8, 1 where the token is a target
<split>.offsets.npy     int64 [rows + 1], where rows begin, in tokens
<split>.tasks.npy       int32 [rows], index into the tasks of rows.json
<split>.digests.npy     uint8 [rows, 32], sha256 of the row's ids, whatever task or text they came from
<split>.units.npy       int64 [units + 1], where units begin, in rows
<split>.difficulty.npy  float32 [units], what a curriculum orders by within a task

A unit is what is never parted: the row of a source, or several neighbours: the pieces that overLength
split cut it into, or the chosen and then the rejected answer of a preference pair.
"""

import json
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Literal, cast

import numpy as np
import numpy.typing as npt

from anneal_runtime.chat import Encoded

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
ROWS_FILE = "rows.json"
_LONG = ("tokens", "learned")
"""What there is one of a token."""
_FORMAT: Any = np.lib.format  # whose types nobody has written down
_BLOCK = 1 << 20
"""Tokens that are copied at once."""


@dataclass(frozen=True)
class Split:
    """Rows of one part; arrays are memory-mapped, so opening costs nothing."""

    tokens: npt.NDArray[Any]
    learned: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    tasks: npt.NDArray[np.int32]
    digests: npt.NDArray[np.uint8]
    units: npt.NDArray[np.int64]
    difficulty: npt.NDArray[np.float32]

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

    @cached_property
    def unit_of(self) -> npt.NDArray[np.int64]:
        """The unit of each row."""
        return np.repeat(np.arange(len(self.units) - 1), np.diff(self.units))

    @cached_property
    def unit_tasks(self) -> npt.NDArray[np.int32]:
        """The task of each unit: all rows of a unit share it."""
        return cast(npt.NDArray[np.int32], self.tasks[self.units[:-1]])

    @cached_property
    def unit_lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each unit."""
        return np.diff(self.offsets[self.units])

    def rows_of(self, units: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the rows of some units, in their order."""
        parts = [np.arange(self.units[unit], self.units[unit + 1]) for unit in units]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def row(self, index: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Return ids and learned flags of a row."""
        where = slice(self.offsets[index], self.offsets[index + 1])
        return self.tokens[where].astype(np.int64), self.learned[where].astype(bool)


_PARTS = tuple(part.name for part in fields(Split))


def open_split(folder: Path, name: SplitName) -> Split:
    """Return a split of the dataset in `folder`."""
    return Split(*(_load(folder / f"{name}.{part}.npy") for part in _PARTS))


def task_names(folder: Path) -> list[str]:
    """Return the tasks of the dataset in `folder`, in the order of their indices."""
    return [task["name"] for task in _rows_file(folder)["tasks"]]


def added_tokens(folder: Path) -> dict[str, int]:
    """Return the tokens, and their ids, that the dataset's tokenizer has and the base model's has not."""
    return dict(_rows_file(folder)["addedTokens"])


@dataclass(frozen=True)
class Origin:
    """The place in a task's data that a unit comes from, and its programming language if it has one."""

    file: str = ""
    line: int = 0
    language: str = ""


@dataclass(frozen=True, slots=True)
class _Unit:
    """Rows of a writer that stay together; their tokens lie in its scratch from `start` on.

    `targets` are learned tokens; `difficulty` is None where the source states none.
    """

    start: int
    lengths: tuple[int, ...]
    targets: int
    digests: tuple[bytes, ...]
    task: int
    difficulty: float | None
    origin: Origin

    @property
    def tokens(self) -> int:
        return sum(self.lengths)


@dataclass(frozen=True)
class Dropped:
    """A unit that was taken out again."""

    task: int
    rows: int
    tokens: int
    origin: Origin = Origin()


@dataclass
class SplitWriter:
    """Collects the units of a split and writes them; tokens wait in files without a name, not in memory."""

    token_type: type[np.unsignedinteger[Any]]
    _units: list[_Unit] = field(default_factory=list)
    _scratch: dict[str, IO[bytes]] = field(
        default_factory=lambda: {name: TemporaryFile() for name in _LONG}  # noqa: SIM115
    )
    _end: int = 0

    def __post_init__(self) -> None:
        for stream in self._scratch.values():
            weakref.finalize(self, stream.close)

    def add(
        self,
        pieces: Sequence[Encoded],
        task: int,
        digests: Sequence[bytes],
        difficulty: float | None,
        origin: Origin = Origin(),
    ) -> None:
        """Append a unit of one row a piece; a row's first token is never learned, as nothing precedes it."""
        lengths = tuple(len(piece.ids) for piece in pieces)
        ids = [number for piece in pieces for number in piece.ids]
        learned = [flag for piece in pieces for flag in (False, *piece.learned[1:])]
        self.append(
            np.asarray(ids, self.token_type),
            np.asarray(learned, np.uint8),
            lengths,
            task,
            digests,
            difficulty,
            origin,
        )

    def append(
        self,
        tokens: npt.NDArray[Any],
        learned: npt.NDArray[np.uint8],
        lengths: Sequence[int],
        task: int,
        digests: Sequence[bytes],
        difficulty: float | None,
        origin: Origin,
    ) -> None:
        """Append a unit whose rows stand one after the other in `tokens` and `learned`."""
        self._scratch["tokens"].write(tokens.tobytes())
        self._scratch["learned"].write(learned.tobytes())
        targets = int(learned.sum())
        self._units.append(
            _Unit(self._end, tuple(lengths), targets, tuple(digests), task, difficulty, origin)
        )
        self._end += len(tokens)

    @property
    def digests(self) -> Set[bytes]:
        """Digests of the rows so far."""
        return {digest for unit in self._units for digest in unit.digests}

    def drop(self, digests: Set[bytes]) -> list[Dropped]:
        """Forget every unit that has a row with one of `digests`; return what went."""
        gone = [unit for unit in self._units if not digests.isdisjoint(unit.digests)]
        self._units = [unit for unit in self._units if digests.isdisjoint(unit.digests)]
        return [Dropped(unit.task, len(unit.lengths), unit.tokens, unit.origin) for unit in gone]

    def split(self) -> Split:
        """Return the units so far, in memory."""
        return Split(**self._short(), **{name: np.concatenate([*self._blocks(name)]) for name in _LONG})

    def write(self, folder: Path, name: SplitName) -> Split:
        """Write the split's files into `folder`, and return it."""
        for part, array in self._short().items():
            np.save(folder / f"{name}.{part}.npy", array)
        for part in _LONG:
            _save(folder / f"{name}.{part}.npy", self._type(part), self._blocks(part))
        return open_split(folder, name)

    def _short(self) -> dict[str, Any]:
        """Return what there is one of a row or a unit."""
        units = self._units
        sizes = [len(unit.lengths) for unit in units]
        digests = b"".join(digest for unit in units for digest in unit.digests)
        return {
            "offsets": _starts([length for unit in units for length in unit.lengths]),
            "tasks": np.repeat(np.asarray([unit.task for unit in units], np.int32), sizes),
            "digests": np.frombuffer(digests, np.uint8).reshape(-1, 32),
            "units": _starts(sizes),
            "difficulty": _difficulty(units),
        }

    def _blocks(self, name: str) -> Iterator[npt.NDArray[Any]]:
        """Yield what the scratch holds of the units, in blocks: an empty one first, then neighbours together."""
        stream, kind = self._scratch[name], np.dtype(self._type(name))
        yield np.zeros(0, kind)
        for start, end in _runs(self._units):
            stream.seek(start * kind.itemsize)
            yield np.frombuffer(stream.read((end - start) * kind.itemsize), kind)
        stream.seek(0, os.SEEK_END)

    def _type(self, name: str) -> type[np.unsignedinteger[Any]]:
        return self.token_type if name == "tokens" else np.uint8


def _runs(units: Sequence[_Unit]) -> Iterator[tuple[int, int]]:
    """Yield begin and end, in tokens, of units that lie beside each other, of at most about _BLOCK tokens each."""
    begin = end = 0
    for unit in units:
        if unit.start != end or end - begin >= _BLOCK:
            yield begin, end
            begin = unit.start
        end = unit.start + unit.tokens
    yield begin, end


def _save(path: Path, kind: type[np.unsignedinteger[Any]], blocks: Iterable[npt.NDArray[Any]]) -> None:
    """Write an array as numpy.save does, block by block.

    The header is written twice: numpy pads it so that its length does not depend on that of the array.
    """
    told = {"descr": _FORMAT.dtype_to_descr(np.dtype(kind)), "fortran_order": False}
    with path.open("wb") as stream:
        _FORMAT.write_array_header_1_0(stream, {**told, "shape": (0,)})
        count = 0
        for block in blocks:
            stream.write(block.tobytes())
            count += len(block)
        stream.seek(0)
        _FORMAT.write_array_header_1_0(stream, {**told, "shape": (count,)})


def token_type(vocabulary: int, added: Mapping[str, int]) -> type[np.unsignedinteger[Any]]:
    """Return the smallest integer type that holds every id of a model's vocabulary and of tokens added to it."""
    return (
        np.uint16 if max([vocabulary, *(number + 1 for number in added.values())]) <= 1 << 16 else np.uint32
    )


def _difficulty(units: Sequence[_Unit]) -> npt.NDArray[np.float32]:
    """Return the stated difficulty where every unit of the task has one, else the unit's learned tokens."""
    unrated = {unit.task for unit in units if unit.difficulty is None}
    values = [
        unit.targets if unit.difficulty is None or unit.task in unrated else unit.difficulty for unit in units
    ]
    return np.asarray(values, np.float32)


def _starts(sizes: Sequence[int]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


def _rows_file(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / ROWS_FILE).read_text()))


def _load(path: Path) -> Any:
    # An empty array cannot be mapped.
    return np.load(path, mmap_mode=None if path.stat().st_size < 4096 else "r")
