"""CoBa, the convergence balancer (Gong et al., arXiv 2410.06741): task weights from validation losses.

With K tasks, l_i(t) the validation loss of task i at update t divided by its first value, and a_i(t) the
slope of a least-squares line through its last N values:

RCS_i(t)  softmax over tasks of K a_i(t) / sum_j |a_j(t)|: slow tasks catch up
ACS_i(t)  softmax over tasks of -N a_i(t) / sum of its last N |a_i|: diverging tasks are let go
DF(t)     min(1, t * the newest of softmax over updates 1 to t of -tau t a_max / sum |a_max|)
w_i(t)    DF(t) RCS_i(t) + (1 - DF(t)) ACS_i(t), with sum 1

a_max(t) is the largest slope of the tasks. Its sum is of absolute values, as in the other two scores and in
the authors' code: a signed sum is negative where all losses fall, and a task that begins to diverge would
raise DF. Where fewer than N slopes exist, N is their number. Scores whose sum of slopes is zero are even.

Other than in the authors' code (MFTCoder), a warm-up need be no multiple of the interval, DF is clamped as
published, a_max is the largest slope (there: the slope of the largest loss), and neither a second softmax nor
a least weight follows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import numpy.typing as npt

from anneal_api.finetunejob import Coba

Floats = npt.NDArray[np.float64]
Row = list[float | None]
"""A number of each task; None where it was not measured."""


@dataclass(frozen=True)
class State:
    """What the next update needs; `dataclasses.asdict` of it is JSON, and `State(**that)` gives it back."""

    first: Row
    """Loss of each task when it was first measured."""
    ratios: list[Row] = field(default_factory=list)
    """Losses of the last history_steps updates, divided by the first."""
    slopes: list[Row] = field(default_factory=list)
    """Slopes at the last history_steps updates since the warm-up."""
    largest: list[float] = field(default_factory=list)
    """Largest slope at every update since the warm-up: DF's softmax scales all of them by a factor of the newest
    update, so no running sum of the odds says what the next update's are."""


def start(tasks: int) -> State:
    """Return the state before the first measurement."""
    return State([None] * tasks)


def observe(state: State, step: int, losses: Sequence[float | None], coba: Coba) -> State:
    """Return the state with the tasks' validation losses after `step` optimizer steps.

    A loss that is None, or no finite positive number, leaves a gap in its task's history.
    """
    seen = [loss if loss is not None and math.isfinite(loss) and loss > 0 else None for loss in losses]
    first = [new if old is None else old for old, new in zip(state.first, seen, strict=True)]
    ratio = [loss / one if loss and one else None for loss, one in zip(seen, first, strict=True)]
    ratios = [*state.ratios, ratio][-coba.history_steps :]
    slope = slopes(_array(ratios))
    if step < coba.warmup_steps or np.isnan(slope).all():
        return State(first, ratios, state.slopes, state.largest)
    history = [*state.slopes, _row(slope)][-coba.history_steps :]
    return State(first, ratios, history, [*state.largest, float(np.nanmax(slope))])


def weights(state: State, coba: Coba) -> Floats:
    """Return the weight of each task; they sum to 1, and are equal until the warm-up is over.

    A task that was never measured has an equal share, and the others divide what is left.
    """
    result = np.full(len(state.first), 1 / len(state.first))
    if state.slopes:
        history, factor = _array(state.slopes), divergence_factor(np.asarray(state.largest), coba.tau)
        measured = np.isfinite(history[-1])
        relative = relative_scores(history[-1, measured])
        absolute = absolute_scores(history[:, measured])
        result[measured] = (factor * relative + (1 - factor) * absolute) * measured.mean()
    return result


def slopes(ratios: Floats) -> Floats:
    """Return the least-squares slope of each column, [tasks]; NaN where fewer than two values are numbers."""
    known = np.isfinite(ratios)
    count = np.maximum(known.sum(0), 1)
    updates = np.where(known, np.arange(len(ratios))[:, None], 0.0)
    offsets = np.where(known, updates - updates.sum(0) / count, 0.0)
    values = np.where(known, ratios, 0.0)
    rise, run = (offsets * (values - values.sum(0) / count)).sum(0), (offsets**2).sum(0)
    return cast(Floats, np.divide(rise, run, out=np.full(len(run), np.nan), where=run > 0))


def relative_scores(slope: Floats) -> Floats:
    """Return RCS of slopes [tasks]."""
    return _softmax(len(slope) * _share(slope, np.abs(slope).sum()))


def absolute_scores(history: Floats) -> Floats:
    """Return ACS of the last of slopes [updates, tasks]."""
    count = np.isfinite(history).sum(0)
    return _softmax(-count * _share(history[-1], np.nansum(np.abs(history), axis=0)))


def divergence_factor(largest: Floats, tau: float) -> float:
    """Return DF, in (0, 1], of the largest slopes [updates]."""
    updates = len(largest)
    odds = _softmax(-tau * updates * _share(largest, np.abs(largest).sum()))
    return float(min(1.0, updates * odds[-1]))


def _share(values: Floats, total: Floats | np.float64) -> Floats:
    whole = np.broadcast_to(total, values.shape)
    return cast(Floats, np.divide(values, whole, out=np.zeros_like(values), where=whole > 0))


def _softmax(logits: Floats) -> Floats:
    odds = np.exp(logits - logits.max())
    return cast(Floats, odds / odds.sum())


def _array(rows: list[Row]) -> Floats:
    return np.asarray(rows, np.float64)


def _row(values: Floats) -> Row:
    return [float(value) if np.isfinite(value) else None for value in values]
