"""What every resource and contract is built from: the model base, shared types, names of the API group."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

GROUP = "anneal.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

LABEL_JOB = f"{GROUP}/finetunejob"
LABEL_DEPLOYMENT = f"{GROUP}/modeldeployment"
LABEL_STAGE = f"{GROUP}/stage"
LABEL_ATTEMPT = f"{GROUP}/attempt"
LABEL_VERSION = f"{GROUP}/version"
LABEL_SECRET = f"{GROUP}/use"
"""A Secret is mounted only when it carries this label with the value `storage` or `gateway`."""
ANNOTATION_RETRY = f"{GROUP}/retry"
"""On a FineTuneJob: another value tries a failed one again."""
ANNOTATION_PAUSE = f"{GROUP}/pause-reconcile"
"""On either resource, with the value `true`: the operator does nothing about it, whatever happens, until it is gone."""
ANNOTATION_ROLLBACK = f"{GROUP}/rollback"
"""On a ModelDeployment: a version's identity or digest, which then does not serve as long as the annotation is there."""
FINALIZER = f"{GROUP}/artifacts"


class Model(BaseModel):
    """An immutable value, camelCase on the wire; an unknown field is an error, not a surprise."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


def wire(model: BaseModel) -> dict[str, Any]:
    """Return `model` as it travels: camelCase JSON types, without fields that are unset (None)."""
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=40)]
ObjectName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Uri = Annotated[str, StringConstraints(pattern=r"^(pvc|s3|hf|file)://[^\s]+$", max_length=1024)]
StoreUri = Annotated[str, StringConstraints(pattern=r"^(pvc|s3|file)://[^\s]+$", max_length=1024)]
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[int, Field(ge=1, le=31_536_000)]


Suite = Annotated[str, StringConstraints(pattern=r"^(humaneval|(pvc|s3|hf|file)://[^\s]+)$", max_length=1024)]
"""humaneval, or the URI of a file of problems."""


class SecretRef(Model):
    """A Secret of the same namespace, labelled `anneal.dev/use` so that its owner has agreed."""

    name: ObjectName = Field(description="Name of a Secret in the resource's own namespace.")


class Condition(Model):
    """A Kubernetes condition (meta/v1) with positive polarity."""

    type: Annotated[str, StringConstraints(max_length=64)]
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[
        str, StringConstraints(pattern=r"^[A-Za-z]([A-Za-z0-9_]*[A-Za-z0-9])?$", max_length=128)
    ]
    message: Annotated[str, StringConstraints(max_length=4096)] = ""
    last_transition_time: str
    observed_generation: Annotated[int, Field(ge=0)] = 0


class ArtifactRef(Model):
    """A published artifact: where it lies and what its manifest's digest is."""

    uri: str = Field(description="Where the artifact lies.")
    digest: str = Field(description="sha256 of its manifest.json.")
