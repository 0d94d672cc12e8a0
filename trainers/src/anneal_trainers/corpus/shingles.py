"""Texts become sets of hashed n-grams of words, many texts at once and never word by word in Python.

A word is a run of ASCII letters, digits and underscores, or one character beyond ASCII (so that scripts without
spaces have words too). Its bytes are read eight at a time as integers, and hashed with the finaliser of MurmurHash3; an
n-gram's hash is multilinear over its words modulo 2^64 (Lemire and Kaser, arXiv 1202.4961). All numbers come from a
fixed generator of integers, so hashes are equal on every machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Words64 = npt.NDArray[np.uint64]
BLOCK = 1 << 17
"""Bytes that are hashed in one go: what a second-level cache holds of the arrays in between."""
_SEPARATOR, _ASCII, _LEAD, _CONTINUED = range(4)
_LOAD = 8
"""Bytes read as one integer."""


@dataclass(frozen=True)
class Shingles:
    """Hashes of the n-grams of several texts: those of text i are values[starts[i]:starts[i + 1]]."""

    values: npt.NDArray[np.uint32]
    starts: npt.NDArray[np.int64]


def mixed(values: Words64) -> Words64:
    """Return values whose every bit depends on every bit given (the finaliser of MurmurHash3)."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))


def numbers(seed: int, count: int) -> Words64:
    """Return `count` odd numbers that look random (SplitMix64)."""
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return mixed(steps + mixed(np.asarray([seed], np.uint64))) | np.uint64(1)


def _classes() -> bytes:
    table = bytearray(256)
    for byte in b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_":
        table[byte] = _ASCII
    table[0x80:0xC0] = bytes([_CONTINUED]) * 0x40
    table[0xC0:] = bytes([_LEAD]) * 0x40
    return bytes(table)


_CLASS = _classes()
_FIRST_BYTES = np.asarray([(1 << 8 * count) - 1 for count in range(_LOAD + 1)], np.uint64)


def shingles(texts: Sequence[str], width: int) -> Shingles:
    """Return the n-grams of `width` words of each text; a shorter text is one n-gram, one without words none.

    Texts of up to BLOCK bytes in all are fastest; a longer text is given alone.
    """
    raw = [text.encode() for text in texts]
    ends = np.cumsum([len(text) + 1 for text in raw], dtype=np.int64)
    places, hashes = _words(b"\n".join(raw) + b"\n")
    first = np.searchsorted(places, np.concatenate([np.zeros(1, np.int64), ends]))
    return _grams(hashes, first.astype(np.int64), width)


def _words(data: bytes) -> tuple[npt.NDArray[np.int64], Words64]:
    """Return where words begin, and their hashes."""
    kinds = np.frombuffer(data.translate(_CLASS), np.uint8)
    places, hashes, begin = [], [], 0
    while begin < len(data):
        end = _block_end(kinds, begin)
        found, values = _block_words(data[begin:end], kinds[begin:end])
        places.append(found + begin)
        hashes.append(values)
        begin = end
    return np.concatenate(places), np.concatenate(hashes)


def _block_end(kinds: npt.NDArray[np.uint8], begin: int) -> int:
    """Return where a block ends: behind a separator, unless it has none."""
    end = begin + BLOCK
    if end >= len(kinds):
        return len(kinds)
    separators = np.flatnonzero(kinds[begin:end] == _SEPARATOR)
    return begin + int(separators[-1]) + 1 if len(separators) else end


def _block_words(data: bytes, kinds: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int64], Words64]:
    begins = (kinds == _ASCII) | (kinds == _LEAD)
    begins[1:] &= (kinds[1:] != _ASCII) | (kinds[:-1] != _ASCII)
    begins[0] = kinds[0] != _SEPARATOR
    ends = kinds != _SEPARATOR
    ends[:-1] &= begins[1:] | (kinds[1:] == _SEPARATOR)
    starts = np.flatnonzero(begins)
    return starts, _hashed(data, starts, np.flatnonzero(ends) + 1 - starts)


def _hashed(data: bytes, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> Words64:
    """Return the hashes of the words of data that begin at `starts`."""
    loads: Words64 = np.ndarray(len(data), "<u8", data + bytes(_LOAD), strides=(1,))
    hashes = mixed(loads[starts] & _FIRST_BYTES[np.minimum(lengths, _LOAD)])
    longer = np.flatnonzero(lengths > _LOAD)
    while len(longer):
        starts, lengths = starts + _LOAD, lengths - _LOAD
        more = loads[starts[longer]] & _FIRST_BYTES[np.minimum(lengths[longer], _LOAD)]
        hashes[longer] = mixed(hashes[longer] + more)
        longer = longer[lengths[longer] > _LOAD]
    return hashes


def _grams(words: Words64, first: npt.NDArray[np.int64], width: int) -> Shingles:
    weights = numbers(3, width)
    counts = np.diff(first)
    sums = np.zeros(len(words), np.uint64)
    for place in range(min(width, len(words))):
        sums[: len(words) - place] += words[place:] * weights[place]
    whole = np.arange(len(words)) + width <= np.repeat(first[1:], counts)
    short = np.flatnonzero((counts > 0) & (counts < width))
    sums[first[short]] = _short(words, first[short], counts[short], weights)
    whole[first[short]] = True
    found = np.where(counts >= width, counts - width + 1, np.minimum(counts, 1))
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(found)])
    return Shingles((mixed(sums[whole]) >> np.uint64(32)).astype(np.uint32), starts)


def _short(
    words: Words64, first: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], weights: Words64
) -> Words64:
    """Return the hashes of texts with fewer words than an n-gram has."""
    sums = np.zeros(len(first), np.uint64)
    for place in range(len(weights) - 1):
        there = place < counts
        sums[there] += words[first[there] + place] * weights[place]
    return sums
