"""When to stop early: the last `patience` checkpoints all lost against the one before the first of them."""

from collections.abc import Sequence


def should_stop(losses: Sequence[float], patience: int) -> bool:
    """Say whether training ends, given the validation loss of every checkpoint so far."""
    if patience == 0 or len(losses) <= patience:
        return False
    before, recent = losses[-patience - 1], losses[-patience:]
    return all(loss > before for loss in recent)
