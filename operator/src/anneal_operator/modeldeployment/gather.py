"""Reads what a ModelDeployment's decision looks at."""

from dataclasses import replace
from datetime import datetime

from anneal_api.base import LABEL_DEPLOYMENT, LABEL_STAGE
from anneal_operator.cluster.interface import Cluster, Pods
from anneal_operator.decision import Object
from anneal_operator.gathering import complain, read_children
from anneal_operator.modeldeployment import canary, rollout
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
        seen = Observed(resource, found, self._jobs(resource))
        scales = resource["spec"].get("autoscaling") is not None
        name = rollout.trial(seen.status)
        gateways = self._answers(found, "gateway", GATEWAY_PORT) if scales or name else []
        return replace(
            seen,
            load=_load(self._answers(found, "serve", METRICS_PORT), gateways) if scales else None,
            trial=_trial(seen, name, gateways) if name else None,
        )

    def _jobs(self, resource: Object) -> list[Object]:
        model, namespace = resource["spec"]["model"], resource["metadata"]["namespace"]
        if labels := model.get("selector"):
            chosen = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
            return self._cluster.select("FineTuneJob", namespace, chosen)
        ref = model.get("fineTuneJobRef")
        job = self._cluster.get("FineTuneJob", namespace, ref["name"]) if ref else None
        return [job] if job else []

    def _answers(self, found: Children, stage: str, port: int) -> list[str | None]:
        return [self._ask(pod, port) for pod in _ready(found, stage)]

    def _ask(self, pod: PodView, port: int) -> str | None:
        return self._pods.get(pod.address, port, "/metrics")


def _ready(found: Children, stage: str) -> list[PodView]:
    pods = (p for p in found.pods if p.labels.get(LABEL_STAGE) == stage)
    return [p for p in pods if p.ready and p.address and not p.deleting]


def _load(replicas: list[str | None], gateways: list[str | None]) -> Load:
    answers = [answer for answer in [*replicas, *gateways] if answer is not None]
    return Load(
        waiting=sum(gauge(a, WAITING) or 0.0 for a in answers),
        active=sum(gauge(a, ACTIVE) or 0.0 for a in replicas if a),
        cache=sum(gauge(a, CACHE) or 0.0 for a in replicas if a),
        complete=len(answers) == len(replicas) + len(gateways),
    )


def _trial(seen: Observed, name: str, gateways: list[str | None]) -> canary.Trial:
    old, new = rollout.serving(seen.status), rollout.coming(seen.status)[0]
    return canary.read(gateways, name, old.run if old else "", new.run)
