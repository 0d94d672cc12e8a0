"""The training group: one attempt at a time, whole or not at all, until the adapter is published."""

from anneal_api.base import LABEL_STAGE
from anneal_api.finetunejob import Attempt, FineTuneJobSpec, FineTuneJobStatus
from anneal_api.outcome import Outcome, TrainResult
from anneal_operator import outcomes, stuck, times
from anneal_operator.draft import Draft
from anneal_operator.finetunejob import attempts, faults, finish, recovery, resources, status
from anneal_operator.finetunejob.observe import Observed
from anneal_operator.finetunejob.resources import Site
from anneal_operator.observed import JobView

PROGRESS_SECONDS = 15.0
"""At most one status write for progress in this time."""
SAVING_SECONDS = resources.TRAIN_GRACE + 30.0
"""How long a suspended group may take to be gone before the next attempt stops waiting for it."""


def train(draft: Draft[FineTuneJobStatus], observed: Observed, site: Site, spec: FineTuneJobSpec) -> bool:
    """Return whether the adapter is published, after doing what gets it there."""
    if draft.status.artifacts.adapter:
        return True
    found = recovery.inspection(site).published.get("train")
    if found:
        draft.update(artifacts=draft.status.artifacts.model_copy(update={"adapter": found}))
        draft.condition("Training", False, "AlreadyPublished", f"{found.uri} {found.digest}")
        return True
    attempt = attempts.current(draft.status) or _next(draft, observed)
    return attempt is not None and _follow(draft, observed, site, spec, attempt)


def _next(draft: Draft[FineTuneJobStatus], observed: Observed) -> Attempt | None:
    """Begin the next attempt if it is due; its claim in the status is written before anything of it is made."""
    if not draft.status.attempts:
        # After a lost status the newest group there is counts as the current attempt.
        seen = max((job.attempt for job in observed.children.of_stage("train")), default=1)
        return attempts.begin(draft, seen)
    last = draft.status.attempts[-1]
    left = faults.delay(draft.status, draft.uid) - times.seconds_since(last.ended, draft.now)
    if left > 0:
        draft.wake(left)
        return None
    if last.reason == "Suspended" and _still_saving(draft, observed, last):
        draft.wake(3)
        return None
    return attempts.begin(draft, last.number + 1)


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
    draft.apply.append(resources.train_service(site))
    job = observed.children.jobs.get(resources.train_name(site, attempt.number))
    if job is None:
        draft.create.append(resources.train_job(site, attempt.number))
        draft.condition("Training", False, "Starting", f"attempt {attempt.number}")
    elif job.deleting:
        draft.wake(2)
    elif job.succeeded:
        return _succeeded(draft, observed, site, job)
    elif job.failed or _disrupted(job):
        _failed(draft, site, spec, job, outcomes.of_failure(job))
    elif not _whole(job, site):
        _starting(draft, site, spec, job)
    else:
        _running(draft, observed, attempt)
    return False


def _succeeded(draft: Draft[FineTuneJobStatus], observed: Observed, site: Site, job: JobView) -> bool:
    outcome = outcomes.of_success(job)
    if outcome:
        result = TrainResult.model_validate(outcome.result)
        ref, detail = result.artifact, f"best step {result.best_step} of {result.step}"
        draft.update(progress=status.arrived(draft.status.progress, result))
    else:
        found, known = recovery.recovered(draft, observed, site, "train")
        if known and found is None:
            finish.fail(draft, "ResultLost", f"Job {job.name} succeeded, but its adapter is not in the store")
        if found is None:
            return False
        ref, detail = found, found.uri
    attempts.end_current(draft, "Succeeded", detail)
    draft.update(artifacts=draft.status.artifacts.model_copy(update={"adapter": ref}))
    draft.condition("Training", False, "Succeeded", f"{ref.uri} {ref.digest}; {detail}")
    return True


def _disrupted(job: JobView) -> bool:
    """Whether a pod of the group is being taken away; its launcher may never tell."""
    return any(pod.disruption or (pod.deleting and not pod.over) for pod in job.pods)


def _failed(
    draft: Draft[FineTuneJobStatus], site: Site, spec: FineTuneJobSpec, job: JobView, outcome: Outcome
) -> None:
    node = _node(job)
    verdict = faults.judge(outcome, draft.status.restarts, spec.fault_policy.max_restarts)
    attempts.end_current(draft, verdict.reason, verdict.message, node)
    draft.update(restarts=verdict.restarts)
    if job.active:
        draft.remove(job)
    draft.condition("Training", False, verdict.reason, verdict.message)
    number = job.attempt
    if verdict.fatal:
        finish.fail(draft, verdict.reason, f"attempt {number}: {verdict.message}")
        return
    where = f" on node {node}" if node else ""
    draft.event(
        "AttemptEnded", f"attempt {number}{where}: {verdict.message}", "attempt", str(number), warning=True
    )
    draft.wake(faults.delay(draft.status, draft.uid))


def _node(job: JobView) -> str:
    pod = outcomes.culprit(job)
    return pod.node if pod else ""


def _whole(job: JobView, site: Site) -> bool:
    up = [pod for pod in job.pods if pod.phase in ("Running", "Succeeded") and not pod.waiting_reason]
    return len(up) >= site.run.spec.workers.nodes


def _starting(draft: Draft[FineTuneJobStatus], site: Site, spec: FineTuneJobSpec, job: JobView) -> None:
    limit = site.run.spec.workers.start_timeout_seconds
    left = limit - times.seconds_since(job.created, draft.now)
    why = stuck.diagnose(job, draft.now)
    if left <= 0:
        because = f": {why.message}" if why else ""
        text = f"the group was not whole after {limit} s (spec.workers.startTimeoutSeconds){because}"
        _failed(draft, site, spec, job, Outcome(verdict="Retry", reason="StartTimeout", message=text[:2048]))
        return
    draft.wake(min(left, 15))
    text = why.message if why else f"attempt {job.attempt}: waiting for all pods of the group"
    draft.condition("Training", False, why.reason if why else "Starting", text, warning=bool(why))


def _running(draft: Draft[FineTuneJobStatus], observed: Observed, attempt: Attempt) -> None:
    draft.wake(PROGRESS_SECONDS)
    draft.condition("Training", True, "Running", f"attempt {attempt.number}")
    shown = observed.progress
    if shown and shown.attempt == attempt.number:
        draft.update(progress=status.progress(shown), checkpoints=status.checkpoints(shown))
