"""Signatures estimate Jaccard similarity, and keys find what is similar."""

import numpy as np
import pytest

from anneal_trainers.corpus import minhash
from anneal_trainers.corpus.shingles import Shingles


def sets(similarity: float, pairs: int, size: int = 400) -> Shingles:
    """Return pairs of random sets of that similarity, one after the other."""
    rng = np.random.default_rng(7)
    shared = round(2 * size * similarity / (1 + similarity))
    texts = []
    for _ in range(pairs):
        values = rng.integers(0, 2**32, 2 * size - shared, dtype=np.uint32)
        texts += [values[:size], values[size - shared :]]
    starts = np.concatenate([[0], np.cumsum([len(text) for text in texts])])
    return Shingles(np.concatenate(texts), starts)


@pytest.mark.parametrize("similarity", [0.3, 0.7, 0.9])
def test_the_share_of_equal_hashes_is_the_similarity(similarity: float) -> None:
    minima = minhash.signatures(sets(similarity, 300))
    equal = (minima[::2] == minima[1::2]).mean()
    assert equal == pytest.approx(similarity, abs=0.015)  # four standard errors of 300 x 54 draws, or fewer


@pytest.mark.parametrize(("similarity", "least", "most"), [(0.8, 0.99, 1), (0.7, 0.97, 1), (0.3, 0, 0.2)])
def test_similar_sets_share_a_band_as_often_as_promised(similarity: float, least: float, most: float) -> None:
    keys = minhash.keys(minhash.signatures(sets(similarity, 300)))
    bands = np.stack([minhash.band(keys, *pair) for pair in minhash.BANDS])
    assert least <= (bands[:, ::2] == bands[:, 1::2]).any(axis=0).mean() <= most


def test_a_signature_is_the_same_alone_and_among_others() -> None:
    together = sets(0.5, 100, 300)
    last = Shingles(together.values[together.starts[-2] :], together.starts[-2:] - together.starts[-2])
    assert minhash.signatures(last).tolist() == minhash.signatures(together)[-1:].tolist()
