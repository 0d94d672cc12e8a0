"""Which model is served: adopted once as uri and digest, so that the job it came from may go."""

from dataclasses import dataclass

from pydantic import ValidationError

from anneal_api.base import ArtifactRef
from anneal_api.finetunejob import FineTuneJobStatus
from anneal_api.modeldeployment import ModelDeploymentSpec, ModelDeploymentStatus
from anneal_operator.conditions import is_true
from anneal_operator.decision import Object


@dataclass(frozen=True)
class Adoption:
    """The model to serve, or why there is none (yet). A digest may be empty until the model is inspected."""

    model: ArtifactRef | None
    reason: str
    message: str


def adopt(spec: ModelDeploymentSpec, status: ModelDeploymentStatus, job: Object | None) -> Adoption:
    """Return what the spec names; a pinned version is looked for among those adopted before, too."""
    found = _named(spec, status, job)
    pin = spec.model.version
    if found.model is None or not pin or found.model.digest in ("", pin):
        return found
    earlier = next((v for v in status.versions if v.digest == pin), None)
    if earlier:
        return Adoption(ArtifactRef(uri=earlier.uri, digest=pin), "Pinned", f"{earlier.uri} {pin}")
    text = f"spec.model.version: {pin} is not the model found ({found.model.digest}) nor one adopted before"
    return Adoption(None, "VersionNotFound", text)


def _named(spec: ModelDeploymentSpec, status: ModelDeploymentStatus, job: Object | None) -> Adoption:
    if spec.model.uri:
        ref = ArtifactRef(uri=spec.model.uri, digest=spec.model.version or "")
        return Adoption(ref, "Adopted", spec.model.uri)
    ref_name = spec.model.fine_tune_job_ref.name if spec.model.fine_tune_job_ref else ""
    found = _of_job(ref_name, job)
    if found.model is None and status.versions:
        last = status.versions[-1]
        text = f"{last.uri} stays adopted; {found.message}"
        return Adoption(ArtifactRef(uri=last.uri, digest=last.digest), "Adopted", text)
    return found


def _of_job(name: str, job: Object | None) -> Adoption:
    if job is None:
        return Adoption(None, "FineTuneJobMissing", f"FineTuneJob {name!r} does not exist in this namespace")
    try:
        status = FineTuneJobStatus.model_validate(job.get("status", {}))
    except ValidationError:
        status = FineTuneJobStatus()
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
