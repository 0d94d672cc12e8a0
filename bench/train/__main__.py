"""`make bench-train`: this trainer beside TRL and a plain loop, and what packing, checkpoints and ranks cost."""

import os

import smollm2
from report import record

# Before torch is imported: one thread, as everywhere here.
os.environ["OMP_NUM_THREADS"] = "1"

from train import contest, fill, scaling, stall


def main() -> None:
    """Measure everything and record it."""
    model, texts = smollm2.base_and_texts()
    record(
        "train",
        [
            *fill.figures(),
            *stall.figures(),
            *contest.figures(model, texts),
            *scaling.figures(model, texts),
        ],
    )


if __name__ == "__main__":
    main()
