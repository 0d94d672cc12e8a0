"""What there is to know about a ModelDeployment before anything is decided."""

from dataclasses import dataclass, field

from pydantic import ValidationError

from anneal_api.modeldeployment import ModelDeploymentSpec, ModelDeploymentStatus
from anneal_api.runs import DeploymentRun
from anneal_operator import naming, plan
from anneal_operator.decision import Object
from anneal_operator.modeldeployment.autoscale import Load
from anneal_operator.modeldeployment.canary import Trial
from anneal_operator.observed import Children


@dataclass(frozen=True)
class Observed:
    """A ModelDeployment, its children, the jobs it may follow, and what its pods report."""

    resource: Object
    children: Children
    jobs: list[Object] = field(default_factory=list)
    """The FineTuneJobs that spec.model names or selects."""
    load: Load | None = None
    """None when nobody was asked."""
    trial: Trial | None = None
    """What gateways count while a rollout is under way."""

    @property
    def deleting(self) -> bool:
        """Whether the deployment is on its way out."""
        return "deletionTimestamp" in self.resource["metadata"]

    @property
    def spec(self) -> ModelDeploymentSpec:
        """The spec with its defaults; raises ValidationError when the CRD is not this version's."""
        return ModelDeploymentSpec.model_validate(self.resource["spec"])

    @property
    def status(self) -> ModelDeploymentStatus:
        """The stored status; an empty one when it is missing or of a shape this version does not know."""
        try:
            return ModelDeploymentStatus.model_validate(self.resource.get("status", {}))
        except ValidationError:
            return ModelDeploymentStatus()

    def plan_name(self, version: str) -> str:
        """Name of the ConfigMap that holds a version's plan."""
        meta = self.resource["metadata"]
        return naming.child_name(meta["name"], "plan", meta["uid"], version)

    def plan(self, version: str) -> plan.Plan[DeploymentRun] | None:
        """The plan of a version, once it is frozen."""
        name = self.plan_name(version)
        return plan.thaw(name, self.children.config_maps.get(name), DeploymentRun)
