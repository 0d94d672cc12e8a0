"""Many finished FineTuneJobs, and an operator that has nothing to do with them.

They are written to etcd directly, as copies of one that the API server has stored: through it, they alone would take
minutes. Some still have the Job of a stage, two hours after their end.
"""

import asyncio
import base64
import copy
import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from report import Figure

from anneal_api.base import Condition, wire
from anneal_api.finetunejob import FineTuneJobStatus
from anneal_operator import naming, objects, times
from operator_scale import ours, plane
from operator_scale.audit import name
from operator_scale.plane import Object, Plane

ENDED = timedelta(hours=2)
WITH_CHILDREN = 100
A_TIME = 50
"""Copies in one transaction of etcd."""
IDLE_SECONDS = 20
JOBS = f"/apis/batch/v1/namespaces/{ours.NAMESPACE}/jobs"


@dataclass
class Rest:
    """What was found."""

    objects: int
    looked: float
    """Seconds until the operator had looked at each once."""
    peak: float
    resident: float
    idle: float
    """CPU seconds a second."""
    children: int
    """Jobs that are left."""


async def run(finished: int) -> Rest:
    """Start the operator where so many have finished, and let it be."""
    async with plane.plane(manager=False) as place:
        await ours.install(place)
        await store(place, finished)
        operator = ours.operator(place)
        looked = await ours.known(place, finished)
        await asyncio.sleep(3)
        operator.look()
        before = operator.cpu
        await asyncio.sleep(IDLE_SECONDS)
        operator.look()
        left = len((await place.ask("GET", JOBS))["items"])
        idle = (operator.cpu - before) / IDLE_SECONDS
        return Rest(finished, looked, operator.peak, operator.resident, idle, left)


async def store(place: Plane, finished: int) -> None:
    """Finish one, copy it, and give some of the copies a Job."""
    await ours.prepare(place, 1)
    path = f"{ours.COLLECTION}/{name(0)}"
    first = await place.ask("GET", path)
    first = await place.ask("PUT", f"{path}/status", {**first, "status": ended()})
    kept = await place.ask("GET", f"/api/v1/namespaces/{ours.NAMESPACE}/configmaps/{plan_name(first)}")
    numbers = range(1, finished)
    for start in range(0, len(numbers), A_TIME):
        await _put(
            place, [pair for number in numbers[start:][:A_TIME] for pair in copies(first, kept, number)]
        )
    for number in range(min(WITH_CHILDREN, finished)):
        await _child(place, await place.ask("GET", f"{ours.COLLECTION}/{name(number)}"))


def ended() -> Object:
    """Return the status of a run that is over."""
    at = times.stamp(datetime.now(UTC) - ENDED)
    said = {"Inspected": "Inspected", "PlanReady": "Planned", "DataPrepared": "AlreadyPublished"}
    said |= {"Evaluated": "Published", "Exported": "Published", "Complete": "Succeeded"}
    held = [
        Condition(
            type=type_,
            status="True",
            reason=reason,
            message="all is published",
            last_transition_time=at,
            observed_generation=1,
        )
        for type_, reason in said.items()
    ]
    return wire(
        FineTuneJobStatus(conditions=held, completion_time=at, phase="Complete", observed_generation=1)
    )


def copies(first: Object, kept: Object, number: int) -> list[tuple[str, Object]]:
    """Return keys and values of a copy and of its plan, as the API server would have stored them."""
    job, plan = copy.deepcopy(first), copy.deepcopy(kept)
    job["metadata"] |= {"name": name(number), "uid": str(uuid.uuid4())}
    plan["metadata"] |= {"name": plan_name(job), "uid": str(uuid.uuid4())}
    plan["metadata"]["labels"]["anneal.dev/finetunejob"] = name(number)
    plan["metadata"]["ownerReferences"][0] |= {"name": name(number), "uid": job["metadata"]["uid"]}
    for obj in (job, plan):
        del obj["metadata"]["resourceVersion"]
    return [
        (f"/registry/anneal.dev/finetunejobs/{ours.NAMESPACE}/{name(number)}", job),
        (f"/registry/configmaps/{ours.NAMESPACE}/{plan['metadata']['name']}", plan),
    ]


def plan_name(job: Object) -> str:
    """Return the name of a FineTuneJob's plan."""
    return naming.child_name(job["metadata"]["name"], "plan", job["metadata"]["uid"])


async def _put(place: Plane, pairs: list[tuple[str, Object]]) -> None:
    puts = [{"requestPut": {"key": _coded(key), "value": _coded(json.dumps(obj))}} for key, obj in pairs]
    async with place.session.post(f"{plane.PLACE.etcd}/v3/kv/txn", json={"success": puts}) as answer:
        if answer.status != 200:
            raise SystemExit(f"etcd: {answer.status} {await answer.text()}")


def _coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def _child(place: Plane, owner: Object) -> None:
    """Make the Job of a stage that is over; there is no controller that would run it."""
    template: dict[str, Any] = {"spec": {"containers": [{"name": "main", "image": "anneal/trainers:1"}]}}
    called = naming.child_name(owner["metadata"]["name"], "evaluate", owner["metadata"]["uid"])
    labels = {"anneal.dev/finetunejob": owner["metadata"]["name"], "anneal.dev/stage": "evaluate"}
    meta = objects.meta(called, ours.NAMESPACE, ours.reference(owner), labels)
    job = await place.ask("POST", JOBS, objects.stage_job(meta, template))
    at = job["metadata"]["creationTimestamp"]
    held = [
        {"type": type_, "status": "True", "lastTransitionTime": at}
        for type_ in ("SuccessCriteriaMet", "Complete")
    ]
    job["status"] = {"conditions": held, "startTime": at, "completionTime": at, "succeeded": 1}
    await place.ask("PUT", f"{JOBS}/{called}/status", job)


def figures(found: Rest) -> list[Figure]:
    """Return what is recorded."""
    what = f"{found.objects} finished"
    return [
        Figure(f"{what}: until each was looked at", found.looked, "s"),
        Figure(f"{what}: peak memory", found.peak, "MiB", "", "< 300", found.peak < 300),
        Figure(f"{what}: memory at rest", found.resident, "MiB"),
        Figure(f"{what}: CPU at rest", 100 * found.idle, "% of a core"),
        Figure(
            f"{what}: Jobs left an hour after the end",
            found.children,
            "objects",
            "",
            "0",
            found.children == 0,
        ),
    ]
