"""How full best-fit packs are on 20,000 rows of the reference's lengths, and how long finding them takes."""

import time

from report import Figure

from anneal_trainers.data.packing import best_fit_decreasing
from train.rows import FULL, lengths

ROWS = 20_000
CAPACITIES = (FULL, FULL + 1)
"""A pack of the recipe's length, and one with a token more, as of frameworks that shift labels by one."""


def figures() -> list[Figure]:
    """Return the share of the packs' positions that hold a token."""
    sizes = lengths(ROWS, FULL, seed=0).tolist()
    shown = []
    for capacity in CAPACITIES:
        began = time.process_time()
        packs = best_fit_decreasing(sizes, capacity)
        seconds = time.process_time() - began
        fill = sum(sizes) / (len(packs) * capacity)
        what = f"best-fit packs of {capacity}, {ROWS} rows"
        shown += [
            Figure(f"{what}: positions that hold a token", fill, "share", "", ">= 0.998", fill >= 0.998),
            Figure(f"{what}: time to find them", seconds, "CPU-s"),
        ]
    return shown
