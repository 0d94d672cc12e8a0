"""A shard of the data: some files of the tasks, each row cleaned, encoded and marked; all that one machine can do alone.

cut.json                which of its files other shards have a part of: lines are counted in each part anew
records.jsonl           a line a place, in order: where it is and what became of it
tokens.bin, learned.bin what SplitWriter takes, of all units one after the other
grams.u32, starts.npy, keys.npy   of data.dedup near: what `near.groups` needs of the documents

A shard is made of nothing but its files, or parts of them, so it is the same bytes whenever it is made, and shards one after the other are
the same records however many there are.
"""

import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anneal_api.finetunejob import FineTuneJobSpec
from anneal_runtime.chat import ChatEncoder, Encoded
from anneal_trainers.corpus.near import STARTS, Collector
from anneal_trainers.data import cleaning, duplicates, fim, sources
from anneal_trainers.data.counts import beginning
from anneal_trainers.data.dataset import Origin
from anneal_trainers.data.duplicates import Marks
from anneal_trainers.data.formats import Row
from anneal_trainers.data.sources import Found, SourceFile
from anneal_trainers.data.units import UnitFacts, UnitMaker

CUT, RECORDS, TOKENS, LEARNED = "cut.json", "records.jsonl", "tokens.bin", "learned.bin"
BYTES = 1 << 30
"""What a shard is made for: some minutes of one core."""
MOST = 64

Numbered = tuple[int, SourceFile]
"""A file, and the number of its task."""


def count(files: Sequence[SourceFile]) -> int:
    """Return how many shards these files make."""
    parts = sum(max(1, -(-file.size // BYTES)) if file.divisible else 1 for file in files)
    return max(1, min(MOST, parts, round(sum(file.size for file in files) / BYTES)))


def share(files: Sequence[Numbered], number: int, of: int) -> list[Numbered]:
    """Return what shard `number` reads: the files, and the lines of divisible ones, that begin in its share of all bytes."""
    total = max(1, sum(file.size for _, file in files))
    low, high = (-(-total * bound // of) for bound in (number, number + 1))
    high += number + 1 == of  # an empty file at the end begins behind all bytes
    start, mine = 0, []
    for task, file in files:
        begin, end = max(low - start, 0), min(high - start, file.size)
        if file.divisible and begin < end:
            mine.append((task, replace(file, begin=begin, end=end)))
        elif low <= start < high and not (file.divisible and file.size):
            mine.append((task, file))
        start += file.size
    return mine


def listing(spec: FineTuneJobSpec) -> list[Numbered]:
    """Return all files of all tasks, each with the number of its task, in the order in which rows are numbered."""
    return [(index, file) for index, task in enumerate(spec.tasks) for file in sources.files(task)]


@dataclass(frozen=True)
class Record:
    """What became of one place of the data.

    Where no row is, or one that is left out whatever else is found, `reason` says why. Of a row there are `marks`, its
    `document` among the collected ones (-1 where an equal one was collected before), and the beginning of its text
    `before` and, where cleaning changed it, `after`. `unit` is unset for a row that was not encoded.
    """

    task: int
    file: str
    line: int
    language: str = ""
    reason: str = ""
    detail: str = ""
    marks: Marks | None = None
    document: int = -1
    personal: dict[str, int] = field(default_factory=dict)
    hit: dict[str, Any] | None = None
    before: str = ""
    after: str | None = None
    difficulty: float | None = None
    unit: UnitFacts | None = None

    @property
    def origin(self) -> Origin:
        """Where it stands, and its language."""
        return Origin(self.file, self.line, self.language)

    @property
    def place(self) -> dict[str, Any]:
        """File and line."""
        return {"file": self.file, "line": self.line}

    def dump(self) -> str:
        """Return the record as a line of JSON."""
        told = {name: value for name, value in vars(self).items() if value != _DEFAULTS.get(name)}
        if self.marks:
            told["marks"] = [part.hex() if part else None for part in vars(self.marks).values()]
        if self.unit:
            told["unit"] = list(vars(self.unit).values())
        return json.dumps(told, separators=(",", ":")) + "\n"

    @classmethod
    def parse(cls, line: str) -> "Record":
        """Return the record of a line."""
        told = json.loads(line)
        if "marks" in told:
            told["marks"] = Marks(*(bytes.fromhex(part) if part else None for part in told["marks"]))  # type: ignore[arg-type]
        if "unit" in told:
            lengths, *rest = told["unit"]
            told["unit"] = UnitFacts(tuple(lengths), *rest)
        return cls(**told)


_DEFAULTS = vars(Record(-1, "", -1))


@dataclass
class Scan:
    """Makes a shard in `folder`, which is empty."""

    spec: FineTuneJobSpec
    encoder: ChatEncoder
    token_type: type[np.unsignedinteger[Any]]
    folder: Path
    _seen: set[bytes] = field(default_factory=set)
    _known: set[tuple[int, bytes]] = field(default_factory=set)
    _collected: int = 0

    def __post_init__(self) -> None:
        self._cleaner = cleaning.cleaner(self.spec.data)
        self._grams = Collector(self.folder)

    def make(self, files: Sequence[Numbered]) -> None:
        """Read `files`, each given with the number of its task.

        Raises:
            Refused: a row is wrong and spec.data.wrongRows is fail.
        """
        with contextlib.ExitStack() as stack:
            records, tokens, learned = (
                stack.enter_context((self.folder / name).open("wb")) for name in (RECORDS, TOKENS, LEARNED)
            )
            for record, pieces in self._all(files):
                records.write(record.dump().encode())
                for piece in pieces:
                    tokens.write(np.asarray(piece.ids, self.token_type).tobytes())
                    # A row's first token is never learned, as nothing precedes it.
                    learned.write(bytes([False, *piece.learned[1:]]))
        if self.spec.data.dedup == "near":
            self._grams.close()
        (self.folder / CUT).write_text(json.dumps(asdict(_cut(self.spec, files))) + "\n")

    def _all(self, files: Sequence[Numbered]) -> Iterator[tuple[Record, list[Encoded]]]:
        for index, those in itertools.groupby(files, lambda each: each[0]):
            task = self.spec.tasks[index]
            maker = UnitMaker(self.encoder, self.spec.data, fim.filler(task, self.encoder))
            chosen = [file for _, file in those]
            with contextlib.closing(sources.found(task, self.spec.data, chosen)) as places:
                for found in places:
                    yield self._record(index, maker, found)

    def _record(self, index: int, maker: UnitMaker, found: Found) -> tuple[Record, list[Encoded]]:
        record = Record(index, found.file, found.line, reason=found.reason, detail=found.detail)
        if found.row is None:
            return record, []
        row, marks = found.row, duplicates.marks(found.row)
        document, shown = self._document(row, marks), beginning(row)
        record = replace(record, language=row.language, marks=marks, document=document, before=shown)
        return (record, []) if self._is_repeated(index, marks) else self._cleaned(record, maker, row)

    def _document(self, row: Row, marks: Marks) -> int:
        """Collect a document for near-duplicates, unless an equal one was; return its number."""
        if self.spec.data.dedup != "near" or marks.fingerprint in self._seen:
            return -1
        self._seen.add(marks.fingerprint)
        self._grams.add("\n".join(row.parts))
        self._collected += 1
        return self._collected - 1

    def _is_repeated(self, index: int, marks: Marks) -> bool:
        """Whether the shard has had a row of this content and task: it is a duplicate of that, whatever follows."""
        if self.spec.data.dedup == "none":
            return False
        before = len(self._known)
        self._known.add((index, marks.fingerprint + marks.content))
        return len(self._known) == before

    def _cleaned(self, record: Record, maker: UnitMaker, row: Row) -> tuple[Record, list[Encoded]]:
        cleaned = self._cleaner.clean(row)
        hit = asdict(cleaned.hit) if cleaned.hit else None
        record = replace(record, personal=dict(cleaned.personal), hit=hit)
        if cleaned.reason:
            return replace(record, reason=cleaned.reason, detail=cleaned.detail), []
        unit, after = maker.unit(cleaned.row), beginning(cleaned.row) if cleaned.row != row else None
        told = replace(record, unit=unit.facts, difficulty=cleaned.row.difficulty, after=after)
        return told, unit.pieces


@dataclass(frozen=True)
class Cut:
    """Where a shard ends and begins within a file."""

    task: int = -1
    file: str = ""
    """What its first file is called, where another shard has the lines before; else empty."""
    lines: int = 0
    """How many lines of its last file it has, where another shard has the lines behind."""
    alone: bool = False
    """Whether it has no file between the first and the last."""


def _cut(spec: FineTuneJobSpec, files: Sequence[Numbered]) -> Cut:
    if not files:
        return Cut(alone=True)
    (first, head), (last, tail) = files[0], files[-1]
    begun = sources.lines_begun(spec.tasks[last], tail, tail.begin, tail.end or 0) if tail.is_cut else 0
    named = (first, sources.shown(spec.tasks[first], head)) if head.begin else (-1, "")
    return Cut(*named, lines=begun, alone=len(files) == 1)


def records(folders: Iterable[Path]) -> Iterator[tuple[Path, Iterator[Record]]]:
    """Yield the folders of shards with their records, in order; lines are counted from the beginning of their files."""
    before = 0
    for folder in folders:
        cut = Cut(**json.loads((folder / CUT).read_text()))
        yield folder, _records(folder, cut, before)
        before = cut.lines + (before if cut.alone else 0)


def _records(folder: Path, cut: Cut, before: int) -> Iterator[Record]:
    with (folder / RECORDS).open(encoding="utf-8") as lines:
        for record in map(Record.parse, lines):
            goes_on = before and (record.task, record.file) == (cut.task, cut.file)
            yield replace(record, line=before + record.line) if goes_on else record


def marked(folders: Sequence[Path], near: bool) -> Iterator[tuple[int, tuple[str, int], Marks, int]]:
    """Yield what `duplicates.find` takes of every row; documents are counted through all shards."""
    before = 0
    for folder, of_shard in records(folders):
        for record in of_shard:
            if record.marks:
                yield record.task, (record.file, record.line), record.marks, before + record.document
        before += len(np.load(folder / STARTS)) - 1 if near else 0


Ids = npt.NDArray[Any]


def units(
    folders: Sequence[Path], token_type: type[np.unsignedinteger[Any]]
) -> Iterator[tuple[Record, Ids, Ids]]:
    """Yield the records of shards with tokens and learned flags of their units, empty where there is none."""
    size = np.dtype(token_type).itemsize
    for folder, of_shard in records(folders):
        with (folder / TOKENS).open("rb") as tokens, (folder / LEARNED).open("rb") as learned:
            for record in of_shard:
                count = sum(record.unit.lengths) if record.unit else 0
                yield (
                    record,
                    np.frombuffer(tokens.read(count * size), token_type),
                    np.frombuffer(learned.read(count), np.uint8),
                )
