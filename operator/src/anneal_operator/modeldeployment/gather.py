"""Reads what a ModelDeployment's decision looks at."""

from datetime import datetime

from anneal_api.base import LABEL_DEPLOYMENT, LABEL_STAGE
from anneal_operator.cluster.interface import Cluster, Pods
from anneal_operator.decision import Object
from anneal_operator.gathering import complain, read_children
from anneal_operator.modeldeployment.autoscale import Load, gauge
from anneal_operator.modeldeployment.observe import Observed
from anneal_operator.modeldeployment.resources import GATEWAY_PORT, METRICS_PORT
from anneal_operator.observed import Children, PodView

WAITING, ACTIVE, CACHE = "anneal_requests_waiting", "anneal_requests_active", "anneal_kv_cache_used_ratio"


class Gatherer:
    """Reads live; remembers nothing."""

    def __init__(self, cluster: Cluster, pods: Pods) -> None:
        self._cluster = cluster
        self._pods = pods

    def gather(self, resource: Object, now: datetime) -> Observed:
        """Return the ModelDeployment as it is now."""
        read = read_children(self._cluster, resource, LABEL_DEPLOYMENT, serving=True)
        found = complain(self._cluster, read, now)
        scales = resource["spec"].get("autoscaling") is not None
        return Observed(resource, found, self._job(resource), self._load(found) if scales else None)

    def _job(self, resource: Object) -> Object | None:
        ref = resource["spec"]["model"].get("fineTuneJobRef")
        return (
            self._cluster.get("FineTuneJob", resource["metadata"]["namespace"], ref["name"]) if ref else None
        )

    def _load(self, found: Children) -> Load:
        replicas = [self._ask(pod, METRICS_PORT) for pod in _ready(found, "serve")]
        gateways = [self._ask(pod, GATEWAY_PORT) for pod in _ready(found, "gateway")]
        answers = [answer for answer in [*replicas, *gateways] if answer is not None]
        return Load(
            waiting=sum(gauge(a, WAITING) or 0.0 for a in answers),
            active=sum(gauge(a, ACTIVE) or 0.0 for a in replicas if a),
            cache=sum(gauge(a, CACHE) or 0.0 for a in replicas if a),
            complete=len(answers) == len(replicas) + len(gateways),
        )

    def _ask(self, pod: PodView, port: int) -> str | None:
        return self._pods.get(pod.address, port, "/metrics")


def _ready(found: Children, stage: str) -> list[PodView]:
    pods = (p for p in found.pods if p.labels.get(LABEL_STAGE) == stage)
    return [p for p in pods if p.ready and p.address and not p.deleting]
