"""What there is to know about a FineTuneJob before anything is decided."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from pydantic import ValidationError

from anneal_api.finetunejob import FineTuneJobSpec, FineTuneJobStatus
from anneal_api.runs import FineTuneRun, Progress
from anneal_operator import naming, plan
from anneal_operator.decision import Object
from anneal_operator.nodes import NodeView
from anneal_operator.observed import Children


@dataclass(frozen=True)
class Observed:
    """A FineTuneJob, its children by owner UID, and what is only looked at when it matters."""

    resource: Object
    children: Children
    progress: Progress | None = None
    """What the group's first pod says; for display."""
    nodes: Mapping[str, NodeView] = field(default_factory=dict)
    """Nodes of pods that are in trouble, as far as they may be read."""
    pool: Sequence[NodeView] | None = None
    """All nodes that the group's pods may run on; None when nobody asked, or nobody may know."""
    workloads: Sequence[Object] = ()
    """What Kueue keeps of a training Job that waits for it."""

    @property
    def deleting(self) -> bool:
        """Whether the job is on its way out."""
        return "deletionTimestamp" in self.resource["metadata"]

    @cached_property
    def spec(self) -> FineTuneJobSpec:
        """The spec with its defaults; raises ValidationError when the CRD is not this version's."""
        return FineTuneJobSpec.model_validate(self.resource["spec"])

    @cached_property
    def status(self) -> FineTuneJobStatus:
        """The stored status; an empty one when it is missing or of a shape this version does not know."""
        return stored_status(self.resource.get("status", {}))

    @cached_property
    def plan_name(self) -> str:
        """Name of the ConfigMap that holds the plan: one for each FineTuneJob, whoever makes it first."""
        meta = self.resource["metadata"]
        return naming.child_name(meta["name"], "plan", meta["uid"])

    @cached_property
    def plan(self) -> plan.Plan[FineTuneRun] | None:
        """The plan, once it is frozen."""
        return plan.thaw(self.plan_name, self.children.config_maps.get(self.plan_name), FineTuneRun)


def stored_status(status: Object) -> FineTuneJobStatus:
    """Return a status as it is stored; an empty one when it is of a shape this version does not know."""
    try:
        return FineTuneJobStatus.model_validate(status)
    except ValidationError:
        return FineTuneJobStatus()
