"""The plan: what a run was made of when it began, in a ConfigMap that nobody can change.

It holds the spec with its defaults, the accelerator's profile, what inspection found out, and the images, so an
upgrade of the operator or a change of its settings never reaches a run in flight.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

from anneal_api.artifacts import canonical, content_key
from anneal_api.base import wire
from anneal_api.profiles import Images
from anneal_api.runs import RUN_PATH, DeploymentRun, FineTuneRun
from anneal_operator import objects
from anneal_operator.decision import Object

Run = TypeVar("Run", FineTuneRun, DeploymentRun)
RUN_KEY = RUN_PATH.rsplit("/", 1)[1]
IMAGES_KEY = "images.json"


@dataclass(frozen=True)
class Plan(Generic[Run]):
    """A frozen run and where it is kept."""

    config_map: str
    run: Run
    images: Images

    @property
    def identity(self) -> str:
        """Short name of exactly this plan."""
        return content_key([wire(self.run), wire(self.images)])[:12]


def text(run: FineTuneRun | DeploymentRun) -> str:
    """Return a run config as the pods read it."""
    return canonical(wire(run)).decode()


def freeze(metadata: Object, run: FineTuneRun | DeploymentRun, images: Images) -> Object:
    """Return the plan's ConfigMap."""
    data = {RUN_KEY: text(run), IMAGES_KEY: canonical(wire(images)).decode()}
    return objects.config_map(metadata, data, immutable=True)


def thaw(name: str, data: dict[str, str] | None, type_: type[Run]) -> Plan[Run] | None:
    """Return the plan that a ConfigMap holds, or None when there is none."""
    if not data or RUN_KEY not in data:
        return None
    return Plan(name, type_.model_validate_json(data[RUN_KEY]), Images.model_validate_json(data[IMAGES_KEY]))
