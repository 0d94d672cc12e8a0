"""When to stop early: the last `patience` checkpoints all lost against the one before the first of them.

The rule of the CodeFuse recipe, where patience is 3: training ends once the last three checkpoints all have
a validation loss above that of the checkpoint before those three. With losses 0.92, 0.74, 0.69, 0.70, 0.72 it
goes on, as 0.69 is not above 0.74; with a sixth of 0.71 it ends, as 0.70, 0.72 and 0.71 are all above 0.69:

>>> should_stop([0.92, 0.74, 0.69, 0.70, 0.72], patience=3)
False
>>> should_stop([0.92, 0.74, 0.69, 0.70, 0.72, 0.71], patience=3)
True

The three need not rise among themselves, and an equal loss is not above. What is published is the best
checkpoint, here the third.
"""

from collections.abc import Sequence


def should_stop(losses: Sequence[float], patience: int) -> bool:
    """Say whether training ends, given the validation loss of every checkpoint so far; patience 0: never."""
    if patience == 0 or len(losses) <= patience:
        return False
    before, recent = losses[-patience - 1], losses[-patience:]
    return all(loss > before for loss in recent)
