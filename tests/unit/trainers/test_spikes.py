"""The rule for spikes on made-up losses, and the rows behind them by digest."""

import hashlib
import math

import numpy as np
import pytest

from anneal_trainers.data.dataset import Split
from anneal_trainers.records.ledger import Entry
from anneal_trainers.spikes import LEAST, WINDOW, Spike, find, lines, places


def noisy(steps: int, seed: int = 0) -> list[float]:
    """Return losses that fall from 3 to 1 with noise of a tenth."""
    generator = np.random.default_rng(seed)
    return (3 - 2 * np.arange(steps) / steps + 0.1 * generator.standard_normal(steps)).tolist()


def test_noise_and_a_falling_loss_are_no_spikes() -> None:
    assert sum(len(find(noisy(1000, seed))) for seed in range(5)) == 0


def test_where_losses_hardly_differ_a_twentieth_more_is_no_spike() -> None:
    assert find([2.0] * 20 + [2.1]) == []
    assert [spike.place for spike in find([2.0] * 20 + [2.2])] == [20]


@pytest.mark.parametrize("loss", [6.0, math.nan, math.inf])
def test_a_loss_out_of_line_is_found_where_it_is(loss: float) -> None:
    losses = noisy(300)
    losses[120] = losses[200] = loss
    assert [spike.place for spike in find(losses)] == [120, 200]


def test_spikes_do_not_hide_each_other() -> None:
    losses = noisy(200)
    for place in range(100, 120):
        losses[place] = 9.0
    assert [spike.place for spike in find(losses)] == list(range(100, 120))


def test_a_new_level_is_a_spike_only_until_it_is_half_of_the_window() -> None:
    found = [spike.place for spike in find([1.0] * 200 + [2.0] * 200)]
    assert found == list(range(200, 200 + WINDOW // 2))


def test_the_first_steps_have_nothing_to_stand_out_from() -> None:
    assert find([9.0, 1.0, 8.0, *[1.0] * 5][:LEAST]) == []
    assert [spike.place for spike in find([1.0] * LEAST + [9.0])] == [LEAST]


def test_the_limit_is_the_median_and_six_deviations() -> None:
    losses = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 100.0]
    (spike,) = find(losses)
    assert (spike.median, spike.limit) == (5.0, pytest.approx(5 + 6 * 1.4826 * 2))


def split(rows: int) -> Split:
    digests = [hashlib.sha256(str(row % 5).encode()).digest() for row in range(rows)]
    return Split(
        tokens=np.zeros(rows, np.uint16),
        learned=np.ones(rows, np.uint8),
        offsets=np.arange(rows + 1, dtype=np.int64),
        tasks=(np.arange(rows) % 2).astype(np.int32),
        digests=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
        units=np.arange(rows + 1, dtype=np.int64),
        difficulty=np.zeros(rows, np.float32),
    )


def test_rows_are_found_by_their_digests() -> None:
    rows = split(7)
    digests = [rows.digests[row, :8].tobytes().hex() for row in (3, 0, 6, 4)]
    assert places(digests, rows) == [3, 0, 1, 4]  # the sixth is equal to the first but one
    with pytest.raises(KeyError, match="another dataset"):
        places(["0" * 16], rows)


def test_a_person_reads_step_task_and_row() -> None:
    rows = split(5)
    entry = Entry(
        step=9,
        stage=0,
        learning_rate=0.1,
        loss=8.0,
        gradient_norm=2.0,
        finite=True,
        task_losses={"a": 8.0},
        rows=[rows.digests[3, :8].tobytes().hex()],
        attempt=1,
        world=1,
    )
    told = list(lines(Spike(8, 8.0, 1.0, 1.5), entry, rows, ["a", "b"]))
    assert told[0].startswith("step 9: loss 8.0000, median before 1.0000, limit 1.5000")
    assert told[1] == f"  row 3 of the dataset, task b, digest {entry.rows[0]}"
