"""The learning rate, a function of the optimizer step and nothing else."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up, then half a cosine over the rest of the run, never below the floor."""

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
