"""Nothing is lost, nothing overflows, little is wasted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anneal_trainers.data import packing

lengths = st.lists(st.integers(1, 64), max_size=80)


@given(lengths)
def test_every_row_is_in_exactly_one_pack_that_fits(values: list[int]) -> None:
    packs = packing.best_fit_decreasing(values, 64)
    assert sorted(i for pack in packs for i in pack) == list(range(len(values)))
    assert all(sum(values[i] for i in pack) <= 64 for pack in packs)


@given(lengths)
def test_padded_hold_every_row_and_stay_within_capacity(values: list[int]) -> None:
    found = packing.padded(values, 128)
    assert sorted(i for batch in found for i in batch) == list(range(len(values)))
    assert all(max(values[i] for i in batch) * len(batch) <= 128 for batch in found)


@given(lengths, st.integers(1, 5))
def test_shares_hold_every_row_and_differ_by_at_most_one_row(values: list[int], parts: int) -> None:
    found = packing.shares(values, parts)
    assert sorted(i for share in found for i in share) == list(range(len(values)))
    loads = [sum(values[i] for i in share) for share in found]
    assert max(loads) - min(loads) <= max(values, default=0)


def test_log_normal_lengths_fill_packs_to_998_in_1000() -> None:
    values = np.clip(np.random.default_rng(0).lognormal(6, 0.9, 5000), 1, 4096).astype(int).tolist()
    packs = packing.best_fit_decreasing(values, 4096)
    assert sum(values) / (4096 * len(packs)) > 0.998


def test_a_row_longer_than_a_pack_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        packing.best_fit_decreasing([5], 4)
