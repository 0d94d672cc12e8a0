"""What becomes of the rows of a task, counted; and every row that was left out, one line each."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

import numpy as np

from anneal_trainers.corpus import personal
from anneal_trainers.data.dataset import SPLITS, Dropped, Origin, Split, SplitName
from anneal_trainers.data.formats import Row
from anneal_trainers.data.units import UnitFacts

SAMPLES = 3
"""Rows of a task that are shown for each reason."""
SHOWN = 600
"""Characters of a row that are shown."""


@dataclass
class TaskCount:
    """What became of one task's rows.

    Units, rows and tokens are counted by split, `dropped` source rows by reason, `forms` documents by what
    fill-in-the-middle made of them; `over_length` source rows met the over-length policy. `read` source rows were
    found, `languages` of them by language, of which `left` became units and `reasons` tells of those that did not, by
    language and reason; `personal` counts what was redacted.
    """

    name: str
    read: int = 0
    units: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    personal: Counter[str] = field(default_factory=Counter)
    over_length: int = 0
    emptied_pieces: int = 0

    def see(self, language: str) -> None:
        """Count what was found in a place; `language` is empty where that is no source code."""
        self.read += 1
        if language:
            self.languages[language] += 1

    def add(self, unit: UnitFacts, part: SplitName, language: str) -> None:
        """Count the unit of a source row that has one."""
        self.over_length += unit.over_length
        self.emptied_pieces += unit.emptied
        self.forms[unit.form] += 1
        if unit.dropped:
            return
        self.units[part] += 1
        self.rows[part] += len(unit.lengths)
        self.tokens[part] += sum(unit.lengths)
        self.left[language] += 1

    def take_back(self, gone: Dropped, part: SplitName) -> None:
        """Count a unit that was taken out of `part` again."""
        self.units[part] -= 1
        self.rows[part] -= gone.rows
        self.tokens[part] -= gone.tokens
        self.left[gone.origin.language] -= 1

    def dump(self) -> dict[str, Any]:
        """Return the counts as JSON."""
        by_split = {"units": self.units, "rows": self.rows, "tokens": self.tokens}
        return {
            "name": self.name,
            "read": self.read,
            **{what: {name: count[name] for name in SPLITS} for what, count in by_split.items()},
            "dropped": dict(sorted(self.dropped.items())),
            "forms": dict(sorted(self.forms.items())),
            "languages": {name: self._language(name) for name in sorted(self.languages)},
            "personal": dict(sorted(self.personal.items())),
            "overLength": self.over_length,
            "emptiedPieces": self.emptied_pieces,
        }

    def _language(self, name: str) -> dict[str, Any]:
        dropped = dict(sorted(self.reasons[name].items()))
        return {"read": self.languages[name], "kept": self.left[name], "dropped": dropped}


@dataclass
class Trace:
    """Writes a line for every row that is left out, and keeps a few rows of each kind to be shown."""

    stream: TextIO
    hits: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    _shown: Counter[tuple[str, str]] = field(default_factory=Counter)

    def drop(self, count: TaskCount, reason: str, origin: Origin, detail: str = "") -> None:
        """Record that the row of a task left that stood at `origin`."""
        count.dropped[reason] += 1
        if origin.language:
            count.reasons[origin.language][reason] += 1
        place = {"file": origin.file, "line": origin.line}
        line = {"task": count.name, **place, "reason": reason, "detail": detail}
        self.stream.write(json.dumps(line) + "\n")

    def show(
        self, count: TaskCount, what: str, place: Mapping[str, Any], before: str, after: str = ""
    ) -> None:
        """Keep the beginning of a row as it was and as it is; persons and secrets are never shown."""
        self._shown[count.name, what] += 1
        if self._shown[count.name, what] <= SAMPLES:
            texts = dict(zip(("before", "after"), personal.redacted([before, after]).texts, strict=True))
            self.samples.append({"task": count.name, **place, "what": what, **texts})


def lengths(splits: Mapping[SplitName, Split], tasks: int) -> list[dict[str, int]]:
    """Return for each task how many rows have up to 16, 32, 64, ... tokens."""
    every = np.concatenate([split.lengths for split in splits.values()])
    task_of = np.concatenate([split.tasks for split in splits.values()])
    bins = np.maximum(4, np.ceil(np.log2(np.maximum(1, every)))).astype(np.int64)
    return [
        {
            str(1 << power): int((bins[task_of == task] == power).sum())
            for power in np.unique(bins[task_of == task])
        }
        for task in range(tasks)
    ]


def beginning(row: Row) -> str:
    """Return what is shown of a row."""
    return "\n".join(part[:SHOWN] for part in row.parts)[:SHOWN]
