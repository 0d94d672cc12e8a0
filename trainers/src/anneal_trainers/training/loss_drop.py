"""Sampling shares that follow the losses: a task that hardly learns is drawn more often.

The rule of the CodeFuse recipe, which took a task whose loss fell by less than 5% over three successive
windows from 15% of the samples to 25%. A window is what lies between two validations. A task whose loss fell
by less than STALL of itself in each of the last WINDOWS grows by GROWTH, and the others shrink in proportion.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
STALL = 0.05
WINDOWS = 3
GROWTH = 5 / 3
CAP = 0.5
"""Largest share that a task is raised to, among three or more: one task must not crowd out the rest."""
KEPT = 0.5
"""Part of its first share that no task is pushed below."""


def next_shares(
    first: Floats, shares: Floats, losses: Floats, raised_at: Sequence[int]
) -> tuple[Floats, list[int]]:
    """Return the shares after the newest validation, and when each task was last raised.

    WINDOWS new windows must pass before a task is raised again. Where the rest cannot give what the raised
    tasks ask for, these divide what it can; where every task stalls, none is raised.

    Args:
        first: shares at the start, [tasks], with sum 1; 0 for a task that takes no part.
        shares: present shares, [tasks], with sum 1.
        losses: validation losses so far, [validations, tasks]; NaN where a task has no validation rows, which
            is then never raised.
        raised_at: validations that there had been when each task was last raised, 0 if never.
    """
    rested = len(losses) - np.asarray(raised_at) >= WINDOWS
    raised = stalled(losses) & rested & (shares > 0)
    wanted = shares * GROWTH
    if np.count_nonzero(shares) > 2:
        wanted = np.minimum(wanted, np.maximum(shares, CAP))
    growth = np.where(raised, wanted - shares, 0.0)
    floors = np.minimum(shares, KEPT * first)
    spare = (shares - floors)[~raised].sum()
    if growth.sum() == 0 or spare == 0:
        return shares, list(raised_at)
    grown = shares + growth * min(1.0, spare / growth.sum())
    result = grown.copy()
    result[~raised] = shrunk(shares[~raised], floors[~raised], 1 - grown[raised].sum())
    return result, [len(losses) if now else last for now, last in zip(raised, raised_at, strict=True)]


def stalled(losses: Floats) -> npt.NDArray[np.bool_]:
    """Say of each task whether its loss fell by less than STALL in each of the last WINDOWS windows."""
    if len(losses) <= WINDOWS:
        return np.zeros(losses.shape[1], np.bool_)
    recent = losses[-WINDOWS - 1 :]
    return cast(npt.NDArray[np.bool_], (recent[1:] > (1 - STALL) * recent[:-1]).all(0))


def shrunk(shares: Floats, floors: Floats, total: float) -> Floats:
    """Return `shares` in proportion with sum `total`, except for those held at their floors."""
    held = shares <= floors
    result = floors
    while not held.all():
        scale = (total - floors[held].sum()) / shares[~held].sum()
        result = np.where(held, floors, shares * scale)
        if not (result < floors).any():
            break
        held |= result < floors
        result = np.maximum(result, floors)
    return result
