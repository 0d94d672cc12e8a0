"""reconcile(key): read, decide, write; everything in between is pure."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from anneal_api.profiles import OperatorConfig
from anneal_operator import accounts, naming, times
from anneal_operator.carry_out import (
    ChildRefusedError,
    LookAgain,
    NameTakenError,
    Tell,
    carry_out,
    event_object,
)
from anneal_operator.cluster.errors import ApiError
from anneal_operator.cluster.interface import Cluster, Pods
from anneal_operator.decision import Decision, Event, Object
from anneal_operator.finetunejob.decide import decide as decide_finetunejob
from anneal_operator.finetunejob.gather import Gatherer as FineTuneJobs
from anneal_operator.finetunejob.observe import Observed as FineTuneJobSeen
from anneal_operator.metrics import Metrics
from anneal_operator.modeldeployment.decide import decide as decide_modeldeployment
from anneal_operator.modeldeployment.gather import Gatherer as ModelDeployments
from anneal_operator.modeldeployment.observe import Observed as ModelDeploymentSeen
from anneal_operator.observed import Refusal
from anneal_operator.recorder import Recorder

log = logging.getLogger(__name__)
Seen = TypeVar("Seen", FineTuneJobSeen, ModelDeploymentSeen)
TOLD = {"FineTuneJob": ("Job", "ConfigMap", "Service"), "ModelDeployment": ("Job", "ConfigMap")}
"""Kinds whose refusal the next look tells in a condition."""
REFUSED_AGAIN = timedelta(seconds=30)
"""When a child that was refused is tried again while a group runs, which is not left alone for it."""
SOON = timedelta(seconds=0.5)


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
        tell: Tell | None = None,
    ) -> None:
        self._cluster = cluster
        self._tell = tell or Recorder(cluster, pauses=()).write
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
        resource = self._cluster.recall(key.kind, key.namespace, key.name)
        if resource is None:
            self._refusals.pop(key, None)
            accounts.forget(self.metrics, key.kind, key.namespace, key.name)
            return None
        now = self.clock()
        decision = self._decide(resource, self._refusals.pop(key, None), now)
        try:
            carry_out(self._cluster, resource, decision, now, self._tell)
        except LookAgain as reason:
            log.info("%s %s/%s: looking again: %s", key.kind, key.namespace, key.name, reason)
            return now + SOON
        except ChildRefusedError as error:
            self._refusals[key] = error.refusal
            self._account(resource, decision, now)
            if error.refusal.kind not in TOLD[key.kind]:
                self._report(resource, error, now)
            elif not decision.create and decision.requeue_at is not None:
                return min(decision.requeue_at, now + REFUSED_AGAIN)
            raise
        except (ApiError, NameTakenError) as error:
            self._report(resource, error, now)
            raise
        self._account(resource, decision, now)
        return decision.requeue_at

    def _account(self, resource: Object, decision: Decision, now: datetime) -> None:
        if decision.status is not None:
            accounts.follow(self.metrics, resource, decision.status, now)

    def _decide(self, resource: Object, refusal: Refusal | None, now: datetime) -> Decision:
        if resource["kind"] == "FineTuneJob":
            job = self._jobs.gather(resource, now)
            return decide_finetunejob(_told(job, refusal), self._config, now)
        deployment = self._deployments.gather(resource, now)
        return decide_modeldeployment(_told(deployment, refusal), self._config, now)

    def _report(self, resource: Object, error: Exception, now: datetime) -> None:
        """Tell the user of a write that was refused (quota, admission, a taken name); trying goes on."""
        reason = "NameTaken" if isinstance(error, NameTakenError) else "WriteFailed"
        token = naming.short_hash(resource["metadata"]["uid"], reason, str(error))
        self._tell(event_object(resource, Event(True, reason, str(error), token), times.stamp(now)))


def _told(seen: Seen, refusal: Refusal | None) -> Seen:
    """Return what was seen with what the API server has refused at the last look."""
    return replace(seen, children=replace(seen.children, refusal=refusal)) if refusal else seen
