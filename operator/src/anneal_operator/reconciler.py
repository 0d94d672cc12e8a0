"""reconcile(key): read, decide, write; everything in between is pure."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from anneal_api.profiles import OperatorConfig
from anneal_operator import accounts, naming
from anneal_operator.carry_out import (
    ChildRefusedError,
    LookAgain,
    NameTakenError,
    carry_out,
    event_object,
)
from anneal_operator.cluster.errors import AlreadyExists, ApiError
from anneal_operator.cluster.interface import Cluster, Pods
from anneal_operator.decision import Decision, Event, Object
from anneal_operator.finetunejob.decide import decide as decide_finetunejob
from anneal_operator.finetunejob.gather import Gatherer as FineTuneJobs
from anneal_operator.metrics import Metrics
from anneal_operator.modeldeployment.decide import decide as decide_modeldeployment
from anneal_operator.modeldeployment.gather import Gatherer as ModelDeployments
from anneal_operator.observed import Refusal

log = logging.getLogger(__name__)
TOLD = ("Job", "ConfigMap")
"""Kinds whose refusal the next look tells in a condition."""
SOON = timedelta(seconds=0.5)
PER_JOB = ("anneal_goodput_ratio", "anneal_accelerator_seconds_total")
"""Figures that go with their job."""


@dataclass(frozen=True)
class Key:
    """Which resource to look at."""

    kind: str
    namespace: str
    name: str


def utc_now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


class Reconciler:
    """Holds the ways to the outside, and no state that matters."""

    def __init__(
        self,
        cluster: Cluster,
        pods: Pods,
        config: OperatorConfig,
        clock: Callable[[], datetime] = utc_now,
        metrics: Metrics | None = None,
    ) -> None:
        self._cluster = cluster
        self._config = config
        self.clock = clock
        self.metrics = metrics or Metrics()
        self._jobs = FineTuneJobs(cluster, pods)
        self._deployments = ModelDeployments(cluster, pods)
        self._refusals: dict[Key, Refusal] = {}

    def reconcile(self, key: Key) -> datetime | None:
        """Bring one resource a step further; return when to look again, None when only an event can tell."""
        with self.metrics.look(key.kind):
            return self._reconcile(key)

    def _reconcile(self, key: Key) -> datetime | None:
        resource = self._cluster.get(key.kind, key.namespace, key.name)
        if resource is None:
            self._refusals.pop(key, None)
            for name in PER_JOB:
                self.metrics.forget(name, namespace=key.namespace, name=key.name)
            return None
        now = self.clock()
        decision = self._decide(resource, self._refusals.pop(key, None), now)
        try:
            carry_out(self._cluster, resource, decision, now)
        except LookAgain as reason:
            log.info("%s %s/%s: looking again: %s", key.kind, key.namespace, key.name, reason)
            return now + SOON
        except ChildRefusedError as error:
            self._refusals[key] = error.refusal
            if error.refusal.kind not in TOLD:
                self._report(resource, error, now)
            raise
        except (ApiError, NameTakenError) as error:
            self._report(resource, error, now)
            raise
        if decision.status is not None and key.kind == "FineTuneJob":
            accounts.follow(self.metrics, resource, decision.status, now)
        return decision.requeue_at

    def _decide(self, resource: Object, refusal: Refusal | None, now: datetime) -> Decision:
        if resource["kind"] == "FineTuneJob":
            job = self._jobs.gather(resource, now)
            job = replace(job, children=replace(job.children, refusal=refusal))
            return decide_finetunejob(job, self._config, now)
        deployment = self._deployments.gather(resource, now)
        deployment = replace(deployment, children=replace(deployment.children, refusal=refusal))
        return decide_modeldeployment(deployment, self._config, now)

    def _report(self, resource: Object, error: Exception, now: datetime) -> None:
        """Tell the user of a write that was refused (quota, admission, a taken name); trying goes on."""
        reason = "NameTaken" if isinstance(error, NameTakenError) else "WriteFailed"
        token = naming.short_hash(resource["metadata"]["uid"], reason, str(error))
        try:
            self._cluster.create(
                event_object(
                    resource, Event(True, reason, str(error), token), now.strftime("%Y-%m-%dT%H:%M:%SZ")
                )
            )
        except AlreadyExists:
            return
        except ApiError as second:
            log.warning("an event could not be written: %s", second)
