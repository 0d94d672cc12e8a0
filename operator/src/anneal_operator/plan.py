"""The plan: what a run was made of when it began, in a ConfigMap that nobody can change.

It holds the spec with its defaults, the accelerator's profile, what inspection found out, and the images, so an
upgrade of the operator or a change of its settings never reaches a run in flight.
"""

import functools
import hashlib
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from anneal_api.artifacts import canonical
from anneal_api.base import wire
from anneal_api.profiles import Images
from anneal_api.runs import RUN_PATH, DeploymentRun, FineTuneRun
from anneal_operator import objects
from anneal_operator.decision import Object

Run = TypeVar("Run", FineTuneRun, DeploymentRun)
RUN_KEY = RUN_PATH.rsplit("/", 1)[1]
IMAGES_KEY = "images.json"
KEPT = 1024
"""Plans that stay parsed: a look reads its plan several times, and the next look the same one, since none changes."""


@dataclass(frozen=True)
class Plan(Generic[Run]):
    """A frozen run and where it is kept."""

    config_map: str
    run: Run
    images: Images
    identity: str
    """Short name of exactly this plan."""


def text(run: FineTuneRun | DeploymentRun) -> str:
    """Return a run config as the pods read it."""
    return canonical(wire(run)).decode()


def freeze(metadata: Object, run: FineTuneRun | DeploymentRun, images: Images) -> Object:
    """Return the plan's ConfigMap."""
    data = {RUN_KEY: text(run), IMAGES_KEY: canonical(wire(images)).decode()}
    return objects.config_map(metadata, data, immutable=True)


def identity(data: dict[str, str]) -> str:
    """Return the short name of exactly the plan that a ConfigMap holds: the content key of its run and its images."""
    return hashlib.sha256(f"[{data[RUN_KEY]},{data[IMAGES_KEY]}]".encode()).hexdigest()[:12]


def thaw(name: str, data: dict[str, str] | None, type_: type[Run]) -> Plan[Run] | None:
    """Return the plan that a ConfigMap holds, or None when there is none."""
    return _thawed(name, data[RUN_KEY], data[IMAGES_KEY], type_) if data and RUN_KEY in data else None


@functools.lru_cache(KEPT)
def _thawed(name: str, run: str, images: str, type_: type[Any]) -> Plan[Any]:
    short = identity({RUN_KEY: run, IMAGES_KEY: images})
    return Plan(name, type_.model_validate_json(run), Images.model_validate_json(images), short)
