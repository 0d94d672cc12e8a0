"""Reads what a FineTuneJob's decision looks at."""

from dataclasses import replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from anneal_api.base import LABEL_JOB
from anneal_api.finetunejob import Workers
from anneal_api.runs import PROGRESS_PORT, Progress
from anneal_operator import times
from anneal_operator.cluster.interface import Cluster, Pods
from anneal_operator.decision import Object
from anneal_operator.finetunejob import attempts, finish, kueue, reconsider
from anneal_operator.finetunejob.observe import Observed, stored_status
from anneal_operator.finetunejob.running import PROGRESS_SECONDS
from anneal_operator.gathering import complain, optional, read_children
from anneal_operator.nodes import NodeView, node_view
from anneal_operator.observed import Children, PodView, job_view, owned

MANY_NODES = 8
"""From so many on one list is cheaper than reading each."""


class Gatherer:
    """Remembers only when it last asked a group for its progress, so that the status is not written too often."""

    def __init__(self, cluster: Cluster, pods: Pods) -> None:
        self._cluster = cluster
        self._pods = pods
        self._asked: dict[str, datetime] = {}

    def gather(self, resource: Object, now: datetime) -> Observed:
        """Return the FineTuneJob as it is now."""
        found = complain(self._cluster, read_children(self._cluster, resource, LABEL_JOB), now)
        found = self._with_plan(resource, self._as_held(resource, found))
        seen = Observed(resource, found, self._progress(resource["metadata"]["uid"], found, now))
        if seen.plan is None or finish.is_finished(seen.status):
            return seen
        more: dict[str, Any] = {
            "nodes": self._nodes(seen, now),
            "pool": self._pool(seen, seen.plan.run.spec.workers),
            "workloads": self._workloads(seen),
        }
        # Most looks need none of it, and keep what `seen` has parsed.
        return replace(seen, **more) if any(more.values()) else seen

    def _with_plan(self, resource: Object, found: Children) -> Children:
        """Return the children with the plan of a planned run, even if its labels are gone: never plan twice."""
        meta, name = resource["metadata"], Observed(resource, found).plan_name
        if name in found.config_maps or not resource.get("status", {}).get("run"):
            return found
        live = self._cluster.get("ConfigMap", meta["namespace"], name)
        if live is None or not owned(live, meta["uid"]):
            return found
        return replace(found, config_maps={**found.config_maps, name: live["data"]})

    def _as_held(self, resource: Object, found: Children) -> Children:
        """Return the children, an admitted group that seems to be held back again as it is now.

        All else that ends a group stays true once it is; a list from before Kueue let the group go on says the same
        as one from after it has taken the place away.
        """
        current = attempts.current(stored_status(resource.get("status", {})))
        held = [job for job in found.of_stage("train") if job.suspended and job.active]
        if current is None or not current.admitted or not held:
            return found
        read = [self._cluster.get("Job", job.namespace, job.name) for job in held]
        live = {
            job.name: job_view(raw, job.pods)
            for job, raw in zip(held, read, strict=True)
            if raw and raw["metadata"]["uid"] == job.uid
        }
        return replace(found, jobs={**found.jobs, **live})

    def _nodes(self, seen: Observed, now: datetime) -> dict[str, NodeView]:
        """Return the nodes of the group's pods that are in trouble: most looks at a job read none."""
        current = attempts.current(seen.status)
        groups = [j for j in seen.children.of_stage("train") if current and j.attempt == current.number]
        names = {pod.node for job in groups for pod in job.pods if pod.node and _troubled(pod)}
        doubtful = reconsider.doubtful(seen.status, now)
        names |= {doubtful.node} if doubtful else set()
        if len(names) > MANY_NODES:
            return {node.name: node for node in self._list(seen) or () if node.name in names}
        read = [optional(self._cluster.get, "Node", "", name) for name in sorted(names)]
        return {node["metadata"]["name"]: node_view(node) for node in read if node}

    def _pool(self, seen: Observed, workers: Workers) -> list[NodeView] | None:
        """Return the nodes a group may run on, when a decision about its size or its nodes may be near."""
        status = seen.status
        current = attempts.current(status)
        starts = current is None or not current.training
        shrunk = (status.nodes or workers.nodes) < workers.nodes
        if not shrunk and not (starts and (status.avoided or workers.min_nodes)):
            return None
        return self._list(seen)

    def _list(self, seen: Observed) -> list[NodeView] | None:
        labels = seen.plan.run.accelerator.node_selector if seen.plan else {}
        selector = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
        found = optional(self._cluster.select, "Node", None, selector)
        # An empty pool may be one that grows on demand: nothing can be said of its room.
        return [node_view(node) for node in found] if found else None

    def _workloads(self, seen: Observed) -> list[Object]:
        """Return what Kueue keeps of a training Job that it holds back."""
        held = [job for job in seen.children.of_stage("train") if job.suspended and job.active]
        if not held:
            return []
        selector = f"{kueue.LABEL_JOB_UID}={held[-1].uid}"
        return (
            optional(self._cluster.select, "Workload", seen.resource["metadata"]["namespace"], selector) or []
        )

    def _progress(self, uid: str, found: Children, now: datetime) -> Progress | None:
        active = [job for job in found.of_stage("train") if job.active and not job.deleting]
        first = [
            p for job in active[-1:] for p in job.pods if p.index == 0 and p.address and p.phase == "Running"
        ]
        if not first:
            self._asked.pop(uid, None)
            return None
        last = self._asked.get(uid)
        if last and times.seconds_since(times.stamp(last), now) < PROGRESS_SECONDS - 1:
            return None
        self._asked[uid] = now
        answer = self._pods.get(first[0].address, PROGRESS_PORT, "/progress")
        return _parse(answer) if answer else None


def _troubled(pod: PodView) -> bool:
    silent = pod.phase == "Running" and not pod.ready
    return bool(pod.disruption or pod.deleting or pod.exit_code or silent)


def _parse(answer: str) -> Progress | None:
    try:
        return Progress.model_validate_json(answer)
    except ValidationError:
        return None
