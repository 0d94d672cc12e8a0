"""The learning rate, a function of the optimizer step and nothing else.

Steps are those of the optimizer, counted from 0 at the start of the stage: accumulation, micro-batches and
the number of ranks are no arguments, so they cannot stretch a schedule.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from anneal_api.finetunejob import Optimization

DECAY_SHARE = 10
"""One part in so many of a run is the decay of wsd where the user names none (arXiv 2405.18392)."""


def rate(optimization: Optimization, peak: float, total: int) -> Callable[[int], float]:
    """Return the learning rate of each step of a stage.

    Args:
        peak: learning rate of the stage; the floor of the optimization is lowered to it.
        total: optimizer steps of the stage.
    """
    floor, warmup = min(optimization.min_learning_rate, peak), optimization.warmup_steps
    if optimization.schedule == "cosine":
        return Cosine(peak, floor, warmup, total)
    return Wsd(peak, floor, warmup, optimization.decay_steps or total // DECAY_SHARE, total)


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up, then half a cosine over the rest of the run, never below the floor (arXiv 1608.03983).

    A warm-up longer than the run keeps its slope and does not reach the peak.
    """

    peak: float
    floor: float
    warmup: int
    total: int

    def __call__(self, step: int) -> float:
        """Return the rate of `step`, counted from 0."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        progress = min(1.0, (step - self.warmup) / max(1, self.total - self.warmup))
        return max(self.floor, self.peak * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass(frozen=True)
class Wsd:
    """Linear warm-up, steady at the peak, linear decay to the floor: warmup-stable-decay (arXiv 2404.06395).

    The last step runs at the floor. A decay that does not fit begins where the warm-up ends, and falls more
    steeply; it is at least one step, and none is left above the floor by a warm-up as long as the run.
    """

    peak: float
    floor: float
    warmup: int
    decay: int
    total: int

    def __call__(self, step: int) -> float:
        """Return the rate of `step`, counted from 0."""
        decay = max(1, min(self.decay, self.total - self.warmup))
        left = max(0, self.total - 1 - step) / decay
        rising = self.peak * (step + 1) / max(1, self.warmup)
        return min(self.peak, rising, self.floor + (self.peak - self.floor) * left)
