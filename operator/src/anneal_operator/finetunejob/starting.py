"""A group on its way to being whole, or to being given up: what it lacks, and how many nodes are tried next."""

from anneal_api.finetunejob import FineTuneJobSpec, FineTuneJobStatus
from anneal_operator import nodes, stuck, times
from anneal_operator.draft import Draft
from anneal_operator.finetunejob import avoid, ending, size
from anneal_operator.finetunejob.causes import Cause, End
from anneal_operator.finetunejob.observe import Observed
from anneal_operator.finetunejob.resources import Site
from anneal_operator.observed import JobView


def follow(
    draft: Draft[FineTuneJobStatus], observed: Observed, site: Site, spec: FineTuneJobSpec, job: JobView
) -> None:
    """Wait for the group to be whole, say what it lacks, and give it up when its time is over."""
    limit = size.start_timeout(draft.status.attempts, site.run.spec.workers)
    left = limit - (times.seconds_since(job.started, draft.now) if job.started else 0.0)
    why = stuck.diagnose(job, draft.now)
    if left <= 0:
        because = f": {why.message}" if why else ""
        text = f"the group was not whole after {limit} s (spec.workers.startTimeoutSeconds){because}"
        ending.conclude(draft, spec, job, End(Cause.START_TIMEOUT, "StartTimeout", text))
        _resize(draft, observed, site, job)
        return
    draft.wake(min(left, 15))
    said = why or waits(job.attempt)
    draft.condition("Training", False, said.reason, said.message, warning=bool(why), turn=job.attempt)


def waits(attempt: int) -> stuck.Stuck:
    """Return what is said of a group on its way: the same before its Job is there and after, so it is written once."""
    return stuck.Stuck("Starting", f"attempt {attempt}: waiting for all pods of the group")


def _resize(draft: Draft[FineTuneJobStatus], observed: Observed, site: Site, job: JobView) -> None:
    """After a group that did not start: take avoided nodes again, or go on with fewer."""
    workers, tried = site.run.spec.workers, draft.status.attempts
    avoided = avoid.active(draft.status.avoided, times.parse(tried[-1].started))
    room, without = nodes.room(observed.pool, avoided), nodes.room(observed.pool)
    # A node that is gone holds nobody up by being left out.
    hindered = bool(avoided) and (room is None or without != room)
    following = size.after_timeout(tried, workers, job.up, room, hindered)
    if hindered and following == tried[-1].nodes:
        avoid.drop(draft, "the group was not whole without them")
    _set_size(draft, following, workers.nodes, f"after attempt {job.attempt}, which did not start")


def _set_size(draft: Draft[FineTuneJobStatus], following: int, full: int, why: str) -> None:
    draft.update(nodes=following)
    if following < full:
        text = f"{following} of {full} nodes {why}; the group grows back when there is room"
        turn = draft.status.attempts[-1].number
        draft.condition("FullSize", False, "Shrunk", text, warning=True, turn=turn)
