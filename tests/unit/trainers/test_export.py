"""Rows for a deployment's gate: tasks in turn, within a limit, and never none."""

import numpy as np
import pytest

from anneal_trainers.dataset import Split
from anneal_trainers.export import choose_rows


def split(lengths: list[int], tasks: list[int]) -> Split:
    total = sum(lengths)
    return Split(
        tokens=np.zeros(total, np.uint16),
        learned=np.ones(total, np.uint8),
        offsets=np.cumsum([0, *lengths]).astype(np.int64),
        tasks=np.asarray(tasks, np.int32),
        digests=np.asarray([[row] * 32 for row in range(len(lengths))], np.uint8).reshape(-1, 32),
        units=np.arange(len(lengths) + 1),
        difficulty=np.zeros(len(lengths), np.float32),
    )


@pytest.mark.parametrize(
    ("lengths", "tasks", "chosen"),
    [
        ([5, 5, 5, 5], [0, 0, 1, 1], [0, 2, 1]),
        ([5, 5, 90, 5], [0, 1, 0, 1], [0, 1]),
        ([90, 5], [0, 0], [0]),
        ([], [], []),
    ],
    ids=["tasks in turn", "up to the limit", "one row though it is longer", "no rows"],
)
def test_reference_rows(lengths: list[int], tasks: list[int], chosen: list[int]) -> None:
    assert choose_rows(split(lengths, tasks), 16).tolist() == chosen
