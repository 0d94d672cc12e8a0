"""What users, nodes and Kueue do in a scenario, one step each."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from driver import Driver
from views import raw_node
from world import (
    GOOD,
    NAMESPACE,
    REFS,
    deployment_inspected,
    finetunejob,
    inspected,
    modeldeployment,
)
from world import ref as artifact

from anneal_api.base import ANNOTATION_RETRY
from anneal_api.outcome import Outcome
from anneal_api.runs import Progress

Step = Callable[[Driver], object]
WAIT = object()
"""What a step returns whose time has not come."""
MODEL = {"uri": REFS["export"].uri}
OTHER = {"uri": artifact("model", "8").uri}


def job(published: tuple[str, ...] = (), train: list[Outcome | None] | None = None, **fields: Any) -> Step:
    """Return the step that creates a FineTuneJob; `train` scripts its attempts."""

    def begin(world: Driver) -> None:
        world.player.default["inspect"] = inspected(*published)
        if train is not None:
            world.player.scripts["train"] = list(train)
        world.server.put(finetunejob(**fields))

    return begin


def change(**fields: Any) -> Step:
    """Return the step that sets the FineTuneJob's whole spec anew."""
    return lambda world: world.server.put(finetunejob(**fields))


def served(**fields: Any) -> Step:
    """Return the step that creates or changes a ModelDeployment."""

    def step(world: Driver) -> None:
        letter = "8" if fields.get("model") == OTHER else "4"
        world.player.default["inspect"] = deployment_inspected(letter=letter)
        world.server.put(modeldeployment(**({"model": MODEL} | fields)))

    return step


def both(*steps: Step) -> Step:
    def step(world: Driver) -> None:
        for one in steps:
            one(world)

    return step


def outcome(stage: str, result: Outcome) -> Step:
    def step(world: Driver) -> None:
        world.player.default[stage] = result

    return step


def delete(world: Driver) -> None:
    world.server.remove("FineTuneJob", NAMESPACE, "tune")


def has(type_: str, status: str = "True") -> Callable[[Driver], bool]:
    """Return the check that the FineTuneJob has a condition."""
    return lambda world: world.conditions("FineTuneJob", "tune").get(type_, ("", ""))[0] == status


def says(type_: str, reason: str) -> Callable[[Driver], bool]:
    """Return the check that a condition of the FineTuneJob has a reason."""
    return lambda world: world.conditions("FineTuneJob", "tune").get(type_, ("", ""))[1] == reason


def serving(world: Driver) -> bool:
    return world.conditions("ModelDeployment", "serve").get("Ready", ("", ""))[0] == "True"


def replicas(count: int) -> Callable[[Driver], bool]:
    """Return the check that the ModelDeployment shows so many replicas that are ready."""
    found = ("ModelDeployment", "serve")
    return lambda world: bool(world.resource(*found).get("status", {}).get("readyReplicas") == count)


def refused_by_gate(world: Driver) -> bool:
    return world.conditions("ModelDeployment", "serve").get("GatePassed", ("", ""))[0] == "False"


def attempt(number: int) -> Callable[[Driver], bool]:
    """Return the check that the Job of an attempt is there."""
    return lambda world: any(
        j["metadata"]["labels"].get("anneal.dev/attempt") == str(number) for j in world.jobs("train")
    )


def when(check: Callable[[Driver], bool], step: Step) -> Step:
    """Return the step that waits for something."""
    return lambda world: step(world) if check(world) else WAIT


def train_ends(world: Driver) -> None:
    """Let the group that trains come to its end."""
    world.player.scripts["train"] = []


def pod_status(index: int, **status: Any) -> Step:
    """Return the step that changes the status of a pod of the training group."""

    def step(world: Driver) -> object:
        pods = [p for j in world.jobs("train") for p in world.player.pods(j)]
        if len(pods) <= index:
            return WAIT
        name = pods[index]["metadata"]["name"]
        world.server.set_status("Pod", NAMESPACE, name, {**pods[index]["status"], **status})
        return None

    return step


def lose_result(world: Driver) -> object:
    """End the prepare stage, and take its pods before anybody has read what they reported."""
    found = [j for j in world.jobs("prepare") if world.player.pods(j)]
    if not found:
        return WAIT
    world.player.end(found[0], GOOD["prepare"])
    for pod in world.player.pods(found[0]):
        world.server.remove("Pod", NAMESPACE, pod["metadata"]["name"])
    world.player.default["inspect"] = inspected("prepare")
    return None


def annotate(value: str) -> Step:
    """Return the step that asks for another try of the FineTuneJob."""
    body = {"metadata": {"annotations": {ANNOTATION_RETRY: value}}}
    return lambda world: world.server.patch(("FineTuneJob", NAMESPACE, "tune"), body)


def hold(stage: str) -> Step:
    """Return the step that lets a stage run on and on."""
    return lambda world: world.player.default.pop(stage)


def fails_once(stage: str, outcome: Outcome) -> Step:
    """Return the step after which the next Job of a stage ends so."""

    def step(world: Driver) -> None:
        world.player.scripts[stage] = [outcome]

    return step


def runs(stage: str) -> Callable[[Driver], bool]:
    """Return the check that a Job of a stage is there."""
    return lambda world: bool(world.jobs(stage))


def delete_deployment(world: Driver) -> None:
    world.server.remove("ModelDeployment", NAMESPACE, "serve")


def follow_job(world: Driver) -> None:
    """Create a ModelDeployment of the FineTuneJob's model."""
    world.server.put(modeldeployment())


def inspects_deployment(world: Driver) -> None:
    world.player.default["inspect"] = deployment_inspected()


def node(name: str, *, ready: bool = True) -> Step:
    """Return the step that makes a node of the training pool, or changes whether it is ready."""

    def step(world: Driver) -> None:
        raw = raw_node(name, ready=ready)
        raw["metadata"] |= {"namespace": "", "labels": {"anneal.dev/pool": "training"}}
        world.server.put({"apiVersion": "v1", "kind": "Node", **raw})
        world.server.set_status("Node", "", name, raw["status"])

    return step


def room(pods: int) -> Step:
    """Return the step after which a group finds nodes for so many pods."""

    def step(world: Driver) -> None:
        world.player.room = pods

    return step


def progress(number: int, step: int, checkpoint: int) -> Step:
    """Return the step after which an attempt's first pod says that it is so far."""
    shown = Progress(attempt=number, step=step, total_steps=100, latest_checkpoint=checkpoint)

    def answer(world: Driver) -> None:
        world.pods.answers["10.0.0.1", 9400, "/progress"] = shown.model_dump_json(by_alias=True)

    return answer


def shown(step: int) -> Callable[[Driver], bool]:
    """Return the check that the status shows a step."""

    def check(world: Driver) -> bool:
        found = world.server.get("FineTuneJob", NAMESPACE, "tune") or {}
        return bool(found.get("status", {}).get("progress", {}).get("step") == step)

    return check


def pass_time(seconds: float) -> Step:
    """Return the step in which nothing happens for long."""

    def step(world: Driver) -> None:
        world.now += timedelta(seconds=seconds)

    return step


def _group(world: Driver, number: int, *, held: bool) -> dict[str, Any] | None:
    """Return an attempt's Job once the Job controller has noticed that it is held back, or let go on."""
    for found in world.jobs("train"):
        conditions = {c["type"]: c["status"] for c in found.get("status", {}).get("conditions", [])}
        noticed = conditions.get("Suspended") == ("True" if held else "False")
        if found["metadata"]["labels"]["anneal.dev/attempt"] == str(number) and noticed:
            return found
    return None


def waits(world: Driver) -> object:
    """Kueue makes a Workload of the first group's Job, and has no quota for it."""
    found = _group(world, 1, held=True)
    if found is None:
        return WAIT
    meta = found["metadata"]
    said = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": "no quota in gpus"}
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"]}
    labels = {"kueue.x-k8s.io/job-uid": meta["uid"]}
    place = {"name": "job-tune", "namespace": NAMESPACE, "labels": labels, "ownerReferences": [owner]}
    workload = {"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": "Workload", "metadata": place}
    world.server.put({**workload, "status": {"conditions": [said]}})
    return None


def admit(number: int) -> Step:
    """Return the step in which Kueue lets an attempt go on, on the nodes of its flavour."""

    def step(world: Driver) -> object:
        found = _group(world, number, held=True)
        if found is None:
            return WAIT
        found["spec"]["template"]["spec"]["nodeSelector"]["flavour"] = "reserved"
        return world.server.put({**found, "spec": {**found["spec"], "suspend": False}})

    return step


def evict(number: int) -> Step:
    """Return the step in which Kueue takes an attempt's place away."""

    def step(world: Driver) -> object:
        found = _group(world, number, held=False)
        if found is None:
            return WAIT
        return world.server.put({**found, "spec": {**found["spec"], "suspend": True}})

    return step
