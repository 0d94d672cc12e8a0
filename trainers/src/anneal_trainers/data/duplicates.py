"""Which rows are duplicates, and which have to share a part of the split; known once all shards have seen theirs.

Two rows of one task that are duplicates become one: that with the least fingerprint, whatever the order of the rows.
Rows that are duplicates, in whatever tasks, and rows of one `group` make a family, and a family has one part.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from anneal_trainers.corpus import near
from anneal_trainers.corpus.exact import fingerprint
from anneal_trainers.data.formats import Row
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


@dataclass(frozen=True)
class Marks:
    """What a row is told from others by: fingerprint of the whole, digest of what it is about, and its group's."""

    fingerprint: bytes
    content: bytes
    group: bytes | None

    @property
    def own(self) -> bytes:
        """What decides the row's part of the split, unless its duplicates do."""
        return self.content if self.group is None else self.group


def marks(row: Row) -> Marks:
    """Return the marks of a row."""
    group = None if row.group is None else hashlib.sha256(row.group.encode()).digest()
    whole = fingerprint([*(role for role, _ in row.messages), *row.parts])
    return Marks(whole, content_digest(row), group)


@dataclass
class _Rows:
    """What is remembered of rows: the document of each, its order among equals, its task, its group.

    `firsts` is for every document the collected one that it is.
    """

    documents: list[int] = field(default_factory=list)
    ranks: list[bytes] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)
    groups: dict[int, bytes] = field(default_factory=dict)
    known: dict[bytes, int] = field(default_factory=dict)
    firsts: list[int] = field(default_factory=list)
    places: list[tuple[str, int]] = field(default_factory=list)

    def add(self, task: int, place: tuple[str, int], row: Marks, collected: int) -> None:
        """Remember a row."""
        if row.group is not None:
            self.groups[len(self.documents)] = row.group
        if row.fingerprint not in self.known:
            self.known[row.fingerprint] = len(self.known)
            self.firsts.append(collected)
        self.documents.append(self.known[row.fingerprint])
        self.ranks.append(row.fingerprint + row.content)
        self.tasks.append(task)
        self.places.append(place)


def find(rows: Iterable[tuple[int, tuple[str, int], Marks, int]], folders: Sequence[Path] = ()) -> Duplicates:
    """Return the duplicates among rows: each with the number of its task, its place, its marks and its document.

    Args:
        folders: what `near.Collector` has left of the documents; none where near-duplicates are not asked for.
    """
    seen = _Rows()
    for row in rows:
        seen.add(*row)
    labels = list(range(len(seen.known)))
    if folders:
        digests = np.frombuffer(b"".join(seen.known), np.uint8).reshape(-1, 32)
        labels = near.groups(folders, np.asarray(seen.firsts, np.int64), digests).tolist()
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
