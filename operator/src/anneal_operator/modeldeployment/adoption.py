"""Which model is served: adopted once as uri and digest, so that the job it came from may go."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from anneal_api.base import ArtifactRef
from anneal_api.finetunejob import FineTuneJobStatus
from anneal_api.modeldeployment import Followed, ModelDeploymentSpec, ModelDeploymentStatus
from anneal_operator.conditions import find, is_true
from anneal_operator.decision import Object


@dataclass(frozen=True)
class Adoption:
    """The model to serve, or why there is none (yet). A digest may be empty until the model is inspected."""

    model: ArtifactRef | None
    reason: str
    message: str
    followed: Followed | None = None
    """The success that a selector has come to, when it is a new one."""


def adopt(spec: ModelDeploymentSpec, status: ModelDeploymentStatus, jobs: Sequence[Object]) -> Adoption:
    """Return what the spec names; a pinned version is looked for among those adopted before, too."""
    found = _named(spec, status, jobs)
    pin = spec.model.version
    if found.model is None or not pin or found.model.digest in ("", pin):
        return found
    earlier = next((v for v in status.versions if v.digest == pin), None)
    if earlier:
        return Adoption(ArtifactRef(uri=earlier.uri, digest=pin), "Pinned", f"{earlier.uri} {pin}")
    text = f"spec.model.version: {pin} is not the model found ({found.model.digest}) nor one adopted before"
    return Adoption(None, "VersionNotFound", text)


def _named(spec: ModelDeploymentSpec, status: ModelDeploymentStatus, jobs: Sequence[Object]) -> Adoption:
    if spec.model.uri:
        ref = ArtifactRef(uri=spec.model.uri, digest=spec.model.version or "")
        return Adoption(ref, "Adopted", spec.model.uri)
    if spec.model.selector:
        found = _newest(spec.model.selector, spec.model.version, status.followed, jobs)
    else:
        name = spec.model.fine_tune_job_ref.name if spec.model.fine_tune_job_ref else ""
        found = _of_job(name, next(iter(jobs), None))
    if found.model is None and status.versions:
        last = status.versions[-1]
        text = f"{last.uri} stays adopted; {found.message}"
        return Adoption(ArtifactRef(uri=last.uri, digest=last.digest), "Adopted", text)
    return found


def _newest(
    selector: dict[str, str], pin: str | None, followed: Followed | None, jobs: Sequence[Object]
) -> Adoption:
    """Return the newest success, no older than the one adopted last: deleting a job brings no older model back."""
    since = followed.completed if followed and followed.selector == selector and not pin else ""
    names = ((_completed(job), str(job["metadata"]["name"]), job) for job in jobs)
    found = [(time, name, _of_job(name, job)) for time, name, job in names if time and time >= since]
    fit = [(time, name, of) for time, name, of in found if of.model and pin in (None, of.model.digest)]
    if not fit:
        labels = ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
        text = f"none of {len(jobs)} FineTuneJobs with {labels} has published such a model"
        return Adoption(None, "WaitingForFineTuneJob", f"{text} since {since}" if since else text)
    time, name, newest = max(fit, key=lambda one: one[:2])
    text = f"FineTuneJob {name!r}: {newest.message}"
    reached = None if pin else Followed(selector=selector, job=name, completed=time)
    return Adoption(newest.model, "Adopted", text, reached)


def _completed(job: Object) -> str:
    """Return when a job was complete; empty when it is not."""
    done = find(_status(job).conditions, "Complete")
    return done.last_transition_time if done and done.status == "True" else ""


def _status(job: Object) -> FineTuneJobStatus:
    try:
        return FineTuneJobStatus.model_validate(job.get("status", {}))
    except ValidationError:
        return FineTuneJobStatus()


def _of_job(name: str, job: Object | None) -> Adoption:
    if job is None:
        return Adoption(None, "FineTuneJobMissing", f"FineTuneJob {name!r} does not exist in this namespace")
    status = _status(job)
    if is_true(status.conditions, "Failed"):
        return Adoption(None, "FineTuneJobFailed", f"FineTuneJob {name!r} has failed; see its conditions")
    if not is_true(status.conditions, "Complete"):
        text = f"FineTuneJob {name!r} is not complete yet ({status.phase or 'not begun'})"
        return Adoption(None, "WaitingForFineTuneJob", text)
    merged = status.artifacts.merged
    if merged is None:
        text = f"FineTuneJob {name!r} published no merged model; it needs spec.output.merge: true"
        return Adoption(None, "NoMergedModel", text)
    return Adoption(merged, "Adopted", f"{merged.uri} {merged.digest}")
