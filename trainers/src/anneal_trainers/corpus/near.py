"""Near-duplicates: candidates by MinHash, each verified by the exact Jaccard similarity of its 5-grams.

N-grams are kept in files and read again for candidates alone; what stays in memory is 150 bytes a document. Documents
may be collected in several folders, on several machines: each is what it is whatever is collected with it. The groups that come out are the same whatever the order of the documents: candidates are compared in the order of
their contents' digests.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anneal_trainers.corpus import minhash
from anneal_trainers.corpus.shingles import BLOCK, Shingles, shingles

WIDTH = 5
"""Words of an n-gram, as for StarCoder2 and The Stack v2 (arXiv 2402.19173) and OpenCoder (arXiv 2411.04905)."""
THRESHOLD = 0.7
"""Least Jaccard similarity of near-duplicates, that of The Stack v2."""
GRAMS, STARTS, KEYS = "grams.u32", "starts.npy", "keys.npy"
REACH = 8
"""Every document of a bucket is compared with the next so many; the rest are joined through one another."""
_CACHED = 2048

Labels = npt.NDArray[np.int64]


@dataclass
class Collector:
    """Takes documents one by one and leaves in `folder` what `groups` needs of them: n-grams and keys."""

    folder: Path
    _texts: list[str] = field(default_factory=list)
    _bytes: int = 0
    _starts: list[npt.NDArray[np.int64]] = field(default_factory=lambda: [np.zeros(1, np.int64)])
    _keys: list[npt.NDArray[np.uint64]] = field(
        default_factory=lambda: [np.zeros((0, minhash.GROUPS), np.uint64)]
    )
    _written: int = 0

    def add(self, text: str) -> None:
        """Take the next document."""
        if self._bytes + len(text) > BLOCK:
            self._flush()
        self._texts.append(text)
        self._bytes += len(text)

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        np.save(self.folder / STARTS, np.concatenate(self._starts))
        np.save(self.folder / KEYS, np.concatenate(self._keys))

    def _flush(self) -> None:
        if not self._texts:
            return
        grams = shingles(self._texts, WIDTH)
        with (self.folder / GRAMS).open("ab") as stream:
            grams.values.tofile(stream)
        self._starts.append(grams.starts[1:] + self._written)
        self._written += len(grams.values)
        self._keys.append(_keys(grams.values, grams.starts))
        self._texts, self._bytes = [], 0


def groups(
    folders: Sequence[Path],
    documents: npt.NDArray[np.int64],
    digests: npt.NDArray[np.uint8],
    threshold: float = THRESHOLD,
) -> Labels:
    """Return for every document the one its group is named by: that with the least digest, [documents].

    Args:
        folders: what collectors have left.
        documents: which of theirs are meant, counted through all folders in turn, [documents].
        digests: of the documents' contents, uint8 [documents, 32].
        threshold: least Jaccard similarity of two documents that belong together.
    """
    grams = _Grams.of(folders, documents)
    order = np.lexsort(digests.T[::-1])
    kept = order[grams.lengths[order] > 0]  # a document without words resembles none
    labels = np.arange(len(digests))
    if len(kept):
        found = _Search(grams, kept, threshold).roots(_all_keys(folders)[documents[kept]])
        labels[kept] = kept[found]
    return labels


@dataclass(frozen=True)
class _Grams:
    """Where the n-grams of documents lie: in which folder, from where on, how many."""

    folders: Sequence[Path]
    places: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]

    @classmethod
    def of(cls, folders: Sequence[Path], documents: npt.NDArray[np.int64]) -> "_Grams":
        starts = [np.load(folder / STARTS) for folder in folders]
        empty = np.zeros(0, np.int64)
        counts = [len(each) - 1 for each in starts]
        return cls(
            folders,
            np.repeat(np.arange(len(folders)), counts)[documents],
            np.concatenate([empty, *(each[:-1] for each in starts)])[documents],
            np.concatenate([empty, *(np.diff(each) for each in starts)])[documents],
        )

    def read(self, document: int) -> npt.NDArray[np.uint32]:
        """Return the set of a document's n-grams, sorted."""
        path = self.folders[self.places[document]] / GRAMS
        offset, count = int(self.starts[document]) * 4, int(self.lengths[document])
        return np.unique(np.fromfile(path, np.uint32, count, offset=offset))


def _all_keys(folders: Sequence[Path]) -> npt.NDArray[np.uint64]:
    return np.concatenate([np.load(folder / KEYS) for folder in folders])


def _keys(values: npt.NDArray[np.uint32], starts: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Return the keys of all texts, zeros where one has no n-gram."""
    there = np.diff(starts) > 0
    keys = np.zeros((len(there), minhash.GROUPS), np.uint64)
    if there.any():
        dense = np.concatenate([starts[:-1][there], starts[-1:]])
        keys[there] = minhash.keys(minhash.signatures(Shingles(values, dense)))
    return keys


class _Search:
    """Joins documents, which go by their rank in the order of digests."""

    def __init__(self, grams: _Grams, kept: npt.NDArray[np.int64], threshold: float) -> None:
        self.roots_of = np.arange(len(kept))
        self._threshold = threshold
        self._apart: set[tuple[int, int]] = set()
        self._sets = functools.lru_cache(_CACHED)(lambda rank: grams.read(int(kept[rank])))

    def roots(self, keys: npt.NDArray[np.uint64]) -> Labels:
        """Return the least rank of every document's group."""
        for one, other in minhash.BANDS:
            for left, right in _candidates(minhash.band(keys, one, other), self.roots_of):
                self._compare(left, right)
            self.roots_of = _flat(self.roots_of)
        return self.roots_of

    def _compare(self, left: int, right: int) -> None:
        one, other = self._root(left), self._root(right)
        if one == other or (left, right) in self._apart:
            return
        if jaccard(self._sets(left), self._sets(right)) >= self._threshold:
            self.roots_of[max(one, other)] = min(one, other)
        else:
            self._apart.add((left, right))

    def _root(self, rank: int) -> int:
        while (above := int(self.roots_of[rank])) != rank:
            rank = above
        return rank


def jaccard(one: npt.NDArray[np.uint32], other: npt.NDArray[np.uint32]) -> float:
    """Return the similarity of two sets, each sorted and not empty."""
    few, many = sorted((one, other), key=len)
    places = np.searchsorted(many, few)
    shared = int((many[np.minimum(places, len(many) - 1)] == few).sum())
    return shared / (len(one) + len(other) - shared)


def _candidates(band: npt.NDArray[np.uint64], roots: Labels) -> list[tuple[int, int]]:
    """Return pairs of ranks of one bucket and, so far, two groups, the lesser rank first."""
    order = np.argsort(band, kind="stable")
    sorted_band = band[order]
    pairs: list[tuple[int, int]] = []
    for distance in range(1, min(REACH, len(band) - 1) + 1):
        same = np.flatnonzero(sorted_band[distance:] == sorted_band[:-distance])
        if not len(same):
            break
        left, right = order[same], order[same + distance]
        new = roots[left] != roots[right]
        pairs.extend(zip(left[new].tolist(), right[new].tolist(), strict=True))
    return pairs


def _flat(roots: Labels) -> Labels:
    """Return roots of which each is its own."""
    while not np.array_equal(above := roots[roots], roots):
        roots = above
    return roots
