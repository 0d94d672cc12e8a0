"""A group that trains: how far it is, and when a smaller one makes way for the full one."""

from anneal_api.finetunejob import Attempt, FineTuneJobStatus
from anneal_operator import nodes
from anneal_operator.draft import Draft
from anneal_operator.finetunejob import attempts, size, status
from anneal_operator.finetunejob.causes import Cause
from anneal_operator.finetunejob.observe import Observed
from anneal_operator.finetunejob.resources import Site
from anneal_operator.observed import JobView

PROGRESS_SECONDS = 15.0
"""At most one status write for progress in this time."""


def follow(
    draft: Draft[FineTuneJobStatus], observed: Observed, site: Site, job: JobView, attempt: Attempt
) -> None:
    """Show how far a whole group is, and make a smaller one grow when it may."""
    draft.wake(PROGRESS_SECONDS)
    draft.condition("Training", True, "Running", f"attempt {attempt.number}", turn=attempt.number)
    shown = observed.progress
    if shown and shown.attempt == attempt.number:
        attempts.follow(draft, shown)
        last = draft.status.attempts[-1]
        draft.update(progress=status.progress(shown, last, draft.now), checkpoints=status.checkpoints(shown))
    status.full_size(draft, site.run.spec.workers.nodes)
    if size.may_grow(draft.status, site.run.spec, nodes.room(observed.pool), draft.now):
        _grow(draft, site, job)


def _grow(draft: Draft[FineTuneJobStatus], site: Site, job: JobView) -> None:
    full = site.run.spec.workers.nodes
    text = f"{full} nodes are tried again; this group of {draft.status.nodes} saves and makes way"
    attempts.end_current(draft, Cause.RESIZED, "Growing", text)
    draft.event("Growing", text, "grow", str(job.attempt))
    draft.remove(job)
    draft.update(nodes=full)
    draft.wake(3)
