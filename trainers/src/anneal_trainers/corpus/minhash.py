"""MinHash signatures (Broder 1997), and the keys by which similar documents find each other.

A document has GROUPS keys, each of SIZE minimal hashes, and two documents are candidates when two of their keys agree,
so every pair of keys is a band of 2 x SIZE hashes (the reuse of Andoni and Indyk 2006, which E2LSH calls u-functions):
18 groups of 3 hashes make 153 bands of 6, of 54 hashes instead of 918. Two documents of Jaccard similarity J are
candidates with probability 1 - (1 - p)^18 - 18 p (1 - p)^17, p = J^3: .9946 at .7, .99995 at .8, as 42 independent
bands of 6 (252 hashes) give .9948 and .999997.
"""

import itertools

import numpy as np
import numpy.typing as npt

from anneal_trainers.corpus.shingles import Shingles, mixed, numbers

GROUPS = 18
SIZE = 3
BANDS = [(one, other) for other in range(GROUPS) for one in range(other)]
_FACTORS = (numbers(4, GROUPS * SIZE) >> np.uint64(31)).astype(np.uint32) | np.uint32(1)
_BLOCK = 1 << 14


def signatures(grams: Shingles) -> npt.NDArray[np.uint32]:
    """Return the minimal hashes of every text, [texts, GROUPS * SIZE]; every text has an n-gram.

    The n-grams are random numbers already, so a multiplication modulo 2^32 permutes them well enough.
    """
    minima = np.full((len(_FACTORS), len(grams.starts) - 1), np.uint32(0xFFFFFFFF))
    for begin, end in _blocks(grams.starts):
        values = grams.values[grams.starts[begin] : grams.starts[end]]
        where = grams.starts[begin:end] - grams.starts[begin]
        product = np.empty_like(values)
        for factor, out in zip(_FACTORS, minima, strict=True):
            np.multiply(values, factor, out=product)
            np.minimum.reduceat(product, where, out=out[begin:end])
    return np.ascontiguousarray(minima.T)


def keys(minima: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    """Return the keys of signatures, [texts, GROUPS]."""
    parts = minima.reshape(len(minima), GROUPS, SIZE).astype(np.uint64)
    weights = numbers(5, SIZE)
    return mixed((parts * weights).sum(axis=2, dtype=np.uint64))


def band(found: npt.NDArray[np.uint64], one: int, other: int) -> npt.NDArray[np.uint64]:
    """Return the keys of a band of every text, [texts]."""
    return mixed(found[:, one] * np.uint64(0x9E3779B97F4A7C15) + found[:, other])


def _blocks(starts: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return runs of texts of about _BLOCK n-grams: what a first-level cache holds."""
    cuts = np.searchsorted(starts, np.arange(0, starts[-1] + _BLOCK, _BLOCK), side="left")
    places = np.unique(np.minimum(cuts, len(starts) - 1)).tolist()
    return list(itertools.pairwise(places))
