"""`plan`: whether a resource fits its accelerator, by the operator's own arithmetic, before anything is started."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from anneal_api import sizing
from anneal_api.finetunejob import FineTuneJobSpec
from anneal_api.memory import GIB, ModelShape
from anneal_api.modeldeployment import ModelDeploymentSpec
from anneal_api.profiles import AcceleratorProfile
from anneal_cli.kubectl import Object
from anneal_runtime.errors import Refused


@dataclass(frozen=True)
class Need:
    """What one rank, or one accelerator of a replica, needs; sizes in GiB."""

    kind: str
    name: str
    accelerator: str
    terms: dict[str, float]
    needed: float
    available: float
    fits: bool
    arithmetic: str


def need(
    resource: Object, shape: ModelShape, profiles: Sequence[AcceleratorProfile], tokens: float | None = None
) -> Need:
    """Return what a FineTuneJob or ModelDeployment needs; `tokens` are those of all training rows, where they are known.

    Raises:
        Refused: the spec is wrong, or its accelerator has no profile.
    """
    try:
        if resource["kind"] == "FineTuneJob":
            job = FineTuneJobSpec.model_validate(resource["spec"])
            profile = _profile(profiles, "spec.workers.accelerator", job.workers.accelerator)
            planned = sizing.training(job, shape, profile)
            taken = sizing.training_time(job, shape, profile, tokens)
            words = f"{planned.arithmetic}; {taken}"
            return _need(resource, profile, dict(planned.terms), planned.available, planned.fits, words)
        served = ModelDeploymentSpec.model_validate(resource["spec"])
    except ValidationError as error:
        raise Refused("InvalidSpec", f"{resource['metadata']['name']}: {error}") from error
    profile = _profile(profiles, "spec.accelerator", served.accelerator)
    plan = sizing.serving(served, shape, profile)
    terms = {**dict(plan.fixed.terms), "KV cache": plan.kv_tokens * plan.token_bytes}
    quantizer = next((p for p in profiles if p.name == served.quantization.accelerator), None)
    words = "; ".join(filter(None, (plan.arithmetic, sizing.quantizing(served, shape, quantizer))))
    return _need(resource, profile, terms, plan.fixed.available, plan.fits, words)


def _need(
    resource: Object,
    profile: AcceleratorProfile,
    terms: dict[str, float],
    available: float,
    fits: bool,
    words: str,
) -> Need:
    shown = {name: size / GIB for name, size in terms.items()}
    name, kind = resource["metadata"]["name"], resource["kind"]
    return Need(kind, name, profile.name, shown, sum(shown.values()), available / GIB, fits, words)


def _profile(profiles: Sequence[AcceleratorProfile], field: str, name: str) -> AcceleratorProfile:
    found = next((profile for profile in profiles if profile.name == name), None)
    if found is None:
        known = ", ".join(sorted(profile.name for profile in profiles)) or "none"
        raise Refused(
            "UnknownAccelerator", f"{field}: {name!r} is not an accelerator profile; known are: {known}"
        )
    return found


def profiles_of(values: Any) -> list[AcceleratorProfile]:
    """Return the accelerator profiles of the chart's values, or of the operator's settings: they share the layout."""
    try:
        return [AcceleratorProfile.model_validate(each) for each in values["accelerators"]]
    except (KeyError, TypeError) as error:
        raise Refused(
            "NoProfiles", "--values: the file has no list called accelerators; give the chart's values"
        ) from error
    except ValidationError as error:
        raise Refused("InvalidProfile", f"--values: accelerators: {error}") from error


def resources_of(documents: Sequence[Any]) -> list[Object]:
    """Return Anneal's resources among the documents of a file."""
    kinds = ("FineTuneJob", "ModelDeployment")
    found = [each for each in documents if isinstance(each, dict) and each.get("kind") in kinds]
    if not found:
        raise Refused("NothingToPlan", "--filename: the file holds no FineTuneJob and no ModelDeployment")
    return found


def render(needs: Sequence[Need]) -> RenderableType:
    """Return a table a resource, and the verdict in words."""
    parts: list[RenderableType] = []
    for each in needs:
        table = Table(f"{each.kind} {each.name} on {each.accelerator}", "GiB", box=None, pad_edge=False)
        for name, size in each.terms.items():
            table.add_row(name, f"{size:.2f}")
        table.add_row("available", f"{each.available:.2f}")
        verdict = "fits" if each.fits else "does not fit"
        parts += [table, Text(f"{verdict}: {each.arithmetic}")]
    return Group(*parts)
