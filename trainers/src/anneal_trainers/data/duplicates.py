"""The first of two passes over all rows: which are duplicates, and which have to share a part of the split.

Two rows of one task that are duplicates become one: that with the least fingerprint, whatever the order of the rows.
Rows that are duplicates, in whatever tasks, and rows of one `group` make a family, and a family has one part.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from anneal_trainers.corpus.exact import fingerprint
from anneal_trainers.corpus.near import Collector
from anneal_trainers.data.formats import Row
from anneal_trainers.data.sources import Found
from anneal_trainers.data.units import content_digest


@dataclass(frozen=True)
class Duplicates:
    """By the number of a row, over all tasks in turn: the row that stays for it, its family's key, its file and line."""

    kept: list[int]
    families: list[bytes]
    places: list[tuple[str, int]]

    @property
    def copies(self) -> dict[int, int]:
        """How many rows left for each row that had duplicates."""
        counts: dict[int, int] = {}
        for number, kept in enumerate(self.kept):
            if kept != number:
                counts[kept] = counts.get(kept, 0) + 1
        return counts


@dataclass
class _Rows:
    """What is remembered of rows: the document of each, its order among equals, its task, its group."""

    documents: list[int] = field(default_factory=list)
    ranks: list[bytes] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)
    groups: dict[int, bytes] = field(default_factory=dict)
    known: dict[bytes, int] = field(default_factory=dict)
    places: list[tuple[str, int]] = field(default_factory=list)

    def add(self, task: int, row: Row) -> bool:
        """Remember a row; return whether no row before had its content."""
        digest = fingerprint([*(role for role, _ in row.messages), *row.parts])
        is_new = digest not in self.known
        if row.group is not None:
            self.groups[len(self.documents)] = hashlib.sha256(row.group.encode()).digest()
        self.documents.append(self.known.setdefault(digest, len(self.known)))
        self.ranks.append(digest + content_digest(row))
        self.tasks.append(task)
        return is_new


def find(found: Iterable[tuple[int, Found]], near: bool, scratch: Path) -> Duplicates:
    """Return the duplicates among rows, each found in a place and given with the number of its task.

    Args:
        near: also join near-duplicates, for which a file is written into the folder `scratch`.
    """
    seen, collector = _Rows(), Collector(scratch / "grams")
    for task, place in found:
        if place.row and seen.add(task, place.row) and near:
            collector.add("\n".join(place.row.parts))
        seen.places.append((place.file, place.line))
    labels = list(range(len(seen.known)))
    if near:
        digests = np.frombuffer(b"".join(seen.known), np.uint8).reshape(-1, 32)
        labels = collector.groups(digests).tolist()
    return Duplicates(_kept(seen, labels), _families(seen, labels), seen.places)


def _kept(seen: _Rows, labels: list[int]) -> list[int]:
    first: dict[tuple[int, int], int] = {}
    places = [(task, labels[document]) for task, document in zip(seen.tasks, seen.documents, strict=True)]
    for number, place in enumerate(places):
        best = first.setdefault(place, number)
        if seen.ranks[number] < seen.ranks[best]:
            first[place] = number
    return [first[place] for place in places]


def _families(seen: _Rows, labels: list[int]) -> list[bytes]:
    """Return the least key of every row's family: of its groups, or else of its documents' fingerprints."""
    joined = list(range(len(labels)))
    by_group: dict[bytes, int] = {}
    for number, group in seen.groups.items():
        label = labels[seen.documents[number]]
        _join(joined, label, by_group.setdefault(group, label))
    keys: dict[int, bytes] = {}
    for document, digest in enumerate(seen.known):
        root = _root(joined, labels[document])
        keys[root] = min(keys.get(root, digest), digest)
    for number, group in seen.groups.items():
        root = _root(joined, labels[seen.documents[number]])
        keys[root] = min(keys[root], group)
    return [keys[_root(joined, labels[document])] for document in seen.documents]


def _root(joined: list[int], label: int) -> int:
    while joined[label] != label:
        joined[label] = label = joined[joined[label]]
    return label


def _join(joined: list[int], one: int, other: int) -> None:
    one, other = _root(joined, one), _root(joined, other)
    joined[max(one, other)] = min(one, other)
