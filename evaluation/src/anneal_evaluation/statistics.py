"""What a count of passes is worth: unbiased pass@k, intervals, and paired comparison of two models."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

CONFIDENCE = 0.95
_Z = 1.959963984540054
"""Standard normal quantile of CONFIDENCE, two-sided."""
RESAMPLES = 2000

Value = TypeVar("Value")
Decision = Literal["better", "worse", "undecided"]


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Return the unbiased estimate of pass@k of one problem (Chen et al. 2021, arXiv 2107.03374, equation 1)."""
    if samples - passed < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(samples - passed + 1, samples + 1))


@dataclass(frozen=True)
class Interval:
    """A figure and its confidence interval."""

    value: float
    low: float
    high: float


def wilson(passed: int, problems: int) -> Interval:
    """Return a share with Wilson's score interval, which holds near 0 and 1 too (Wilson 1927)."""
    if not problems:
        return Interval(0.0, 0.0, 1.0)
    share, square = passed / problems, _Z * _Z
    centre = (share + square / (2 * problems)) / (1 + square / problems)
    half = (
        _Z / (1 + square / problems) * math.sqrt(share * (1 - share) / problems + square / (4 * problems**2))
    )
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def bootstrap(
    values: Sequence[Value],
    statistic: Callable[[Sequence[Value]], float],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Return a statistic over problems with a percentile bootstrap interval, the problems drawn with replacement."""
    draw = random.Random(seed)
    found = sorted(statistic(draw.choices(values, k=len(values))) for _ in range(resamples))
    tail = round(resamples * (1 - CONFIDENCE) / 2)
    return Interval(statistic(values), found[tail], found[-1 - tail])


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test: problems that one model alone solves, as coin tosses."""
    tosses, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(tosses, heads) for heads in range(fewer + 1))
    return min(1.0, 2 * tail / (1 << tosses))


def decide(only_first: int, only_second: int) -> Decision:
    """Return whether the second model is better or worse than the first, or the suite too small to tell."""
    if mcnemar(only_first, only_second) >= 1 - CONFIDENCE:
        return "undecided"
    return "better" if only_second > only_first else "worse"
