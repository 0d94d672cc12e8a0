"""`make bench-train`: this trainer beside TRL and a plain loop, and what packing, checkpoints and ranks cost.

Each part records its figures itself, and is a benchmark of its own: `make bench-train.contest`, `.stall`, `.scaling`.
"""

from train import contest, scaling, stall

if __name__ == "__main__":
    stall.main()
    scaling.main()
    contest.main()
