"""The training group: one attempt at a time, whole or not at all, until the adapter is published."""

from anneal_api.base import LABEL_STAGE
from anneal_api.finetunejob import Attempt, FineTuneJobSpec, FineTuneJobStatus
from anneal_api.outcome import TrainResult
from anneal_api.runs import attempt_folder, runs_folder
from anneal_operator import conditions, nodes, objects, outcomes, stages, stuck, times
from anneal_operator.draft import Draft
from anneal_operator.finetunejob import (
    attempts,
    avoid,
    causes,
    ending,
    faults,
    finish,
    kueue,
    reconsider,
    recovery,
    resources,
    running,
    size,
    starting,
    status,
)
from anneal_operator.finetunejob.observe import Observed
from anneal_operator.finetunejob.resources import Site
from anneal_operator.observed import JobView

SAVING_SECONDS = resources.TRAIN_GRACE + 30.0
"""How long a group that was asked to stop may take to be gone before the next attempt stops waiting for it."""


def train(draft: Draft[FineTuneJobStatus], observed: Observed, site: Site, spec: FineTuneJobSpec) -> bool:
    """Return whether the adapter is published, after doing what gets it there."""
    if draft.status.artifacts.adapter:
        return True
    found = recovery.inspection(site).published.get("train")
    if found:
        draft.update(artifacts=draft.status.artifacts.model_copy(update={"adapter": found}))
        draft.condition("Training", False, "AlreadyPublished", f"{found.uri} {found.digest}")
        return True
    reconsider.reconsider(draft, observed.nodes)
    attempt = attempts.current(draft.status) or _next(draft, observed, site)
    _end_others(draft, observed, attempt)
    return attempt is not None and _follow(draft, observed, site, spec, attempt)


def _end_others(draft: Draft[FineTuneJobStatus], observed: Observed, attempt: Attempt | None) -> None:
    """End the group of an attempt that has ended in the status alone: the operator stopped before it removed it."""
    for job in observed.children.of_stage("train"):
        if job.active and (attempt is None or job.attempt != attempt.number):
            draft.remove(job)


def _next(draft: Draft[FineTuneJobStatus], observed: Observed, site: Site) -> Attempt | None:
    """Begin the next attempt if it is due; its claim in the status is written before anything of it is made."""
    room = nodes.room(observed.pool, avoid.suspects(draft.status.avoided, draft.now))
    wanted = size.wanted(draft.status, site.run.spec.workers, room)
    if not draft.status.attempts:
        # After a lost status the newest group there is counts as the current attempt.
        seen = observed.children.of_stage("train")[-1:]
        return _begin(draft, site, seen[0].attempt if seen else 1, seen[0].completions if seen else wanted)
    last = draft.status.attempts[-1]
    left = faults.delay(draft.status, draft.uid) - times.seconds_since(last.ended, draft.now)
    if left > 0:
        draft.wake(left)
        return None
    if causes.policy(last.cause).saves and _still_saving(draft, observed, last):
        draft.wake(3)
        return None
    avoid.refresh(draft, observed.pool, wanted)
    return _begin(draft, site, last.number + 1, wanted)


def _begin(draft: Draft[FineTuneJobStatus], site: Site, number: int, nodes: int) -> Attempt:
    return attempts.begin(draft, number, nodes, attempt_folder(runs_folder(site.run), number))


def _still_saving(draft: Draft[FineTuneJobStatus], observed: Observed, last: Attempt) -> bool:
    holds = [pod for pod in observed.children.pods if pod.labels.get(LABEL_STAGE) == "train"]
    holds += [pod for job in observed.children.of_stage("train") for pod in job.pods]
    waited = times.seconds_since(last.ended, draft.now)
    return any(not pod.over for pod in holds) and waited < SAVING_SECONDS


def _follow(
    draft: Draft[FineTuneJobStatus],
    observed: Observed,
    site: Site,
    spec: FineTuneJobSpec,
    attempt: Attempt,
) -> bool:
    served = _serve(draft, observed, site)
    job = observed.children.jobs.get(resources.train_name(site, attempt.number))
    if job is None:
        _create(draft, observed, site, attempt)
        return False
    _tell_of_service(draft, observed, site, served)
    if job.deleting:
        draft.wake(2)
    elif job.succeeded:
        return _succeeded(draft, observed, site, job)
    elif site.run.spec.queue_name and kueue.waits(job, attempt):
        kueue.wait(draft, attempt, site.run.spec.queue_name, observed.workloads)
    elif job.failed or _breaks(draft, observed, job):
        _failed(draft, observed, site, spec, job)
    else:
        _alive(draft, observed, site, spec, job, attempt)
    return False


def _serve(draft: Draft[FineTuneJobStatus], observed: Observed, site: Site) -> bool:
    """Return whether the groups' Service is there, after asking for it to be made or put right."""
    wanted = resources.train_service(site)
    held = observed.children.services.get(wanted["metadata"]["name"])
    if held is None and not observed.status.attempts:
        draft.create.append(wanted)
    elif held is None or not objects.covers(held, wanted):
        draft.apply.append(wanted)
    return held is not None


def _tell_of_service(draft: Draft[FineTuneJobStatus], observed: Observed, site: Site, served: bool) -> None:
    """Say why a group is without its Service; while a Job is missing too, the condition Training says it."""
    refusal = observed.children.refused(resources.service_name(site))
    said = conditions.find(draft.status.conditions, "ServiceReady")
    if refusal and not served:
        why = stuck.refused(refusal)
        text = f"{why.message}; without it the pods of a group that starts do not find each other"
        draft.condition("ServiceReady", False, why.reason, text, warning=True)
    elif served and said and said.status == "False":
        draft.condition("ServiceReady", True, "Created", resources.service_name(site))


def _create(draft: Draft[FineTuneJobStatus], observed: Observed, site: Site, attempt: Attempt) -> None:
    # As of the attempt's beginning: whoever makes the Job, now or after a restart, makes the same one.
    avoided = avoid.active(draft.status.avoided, times.parse(attempt.started))
    job = resources.train_job(site, attempt.number, _nodes(site, attempt), avoided)
    draft.create.append(job)
    draft.claims = attempts.current(observed.status) is None
    draft.wake(stages.LOOK_AGAIN)
    refusal = observed.children.refused(job["metadata"]["name"], resources.service_name(site))
    why = stuck.refused(refusal) if refusal else starting.waits(attempt.number)
    warning = refusal is not None
    draft.condition("Training", False, why.reason, why.message, warning=warning, turn=attempt.number)


def _nodes(site: Site, attempt: Attempt) -> int:
    return attempt.nodes or site.run.spec.workers.nodes


def _succeeded(draft: Draft[FineTuneJobStatus], observed: Observed, site: Site, job: JobView) -> bool:
    outcome = outcomes.of_success(job)
    if outcome:
        result = TrainResult.model_validate(outcome.result)
        ref, detail = result.artifact, f"best step {result.best_step} of {result.step}"
        draft.update(progress=status.arrived(draft.status.progress, result))
        attempts.reached(draft, result.step)
    else:
        found, known = recovery.recovered(draft, observed, site, "train")
        if known and found is None:
            finish.fail(draft, "ResultLost", f"Job {job.name} succeeded, but its adapter is not in the store")
        if found is None:
            return False
        ref, detail = found, found.uri
    attempts.end_current(draft, "", "Succeeded", detail)
    draft.update(artifacts=draft.status.artifacts.model_copy(update={"adapter": ref}))
    draft.condition("Training", False, "Succeeded", f"{ref.uri} {ref.digest}; {detail}")
    return True


def _breaks(draft: Draft[FineTuneJobStatus], observed: Observed, job: JobView) -> bool:
    """Whether the group has to end although its Job has not failed: a pod is taken away, or its node is gone.

    Its launcher may never tell. What this operator itself cannot reach says nothing: only launchers judge hangs.
    """
    if job.suspended:
        return True
    return any(
        pod.disruption
        or (pod.deleting and not pod.over)
        or (not pod.over and nodes.lost(observed.nodes.get(pod.node), draft.now))
        for pod in job.pods
    )


def _failed(
    draft: Draft[FineTuneJobStatus], observed: Observed, site: Site, spec: FineTuneJobSpec, job: JobView
) -> None:
    end = causes.classify(job, observed.nodes, draft.now)
    left = causes.word_left(job, end, draft.now)
    if left > 0:
        draft.wake(left)
    else:
        ending.conclude(draft, spec, job, end)


def _alive(
    draft: Draft[FineTuneJobStatus],
    observed: Observed,
    site: Site,
    spec: FineTuneJobSpec,
    job: JobView,
    attempt: Attempt,
) -> None:
    if site.run.spec.queue_name:
        attempts.admitted(draft, attempt)
    for pod in job.pods:
        node = observed.nodes.get(pod.node)
        if node is not None and not node.ready and not pod.over:
            draft.wake(nodes.lost_in(node, draft.now))
    if any(pod.phase == "Failed" for pod in job.pods):
        draft.wake(2)  # the Job controller is about to end the group; it has not failed to start
    elif job.up < _nodes(site, attempt) and not attempt.training:
        # One that has made a step was whole, whatever a list from before that says.
        starting.follow(draft, observed, site, spec, job)
    else:
        running.follow(draft, observed, site, job, attempt)
