"""What users and nodes do: what is created, what happens at which tick, and for how many ticks to watch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from driver import Driver
from world import (
    GOOD,
    NAMESPACE,
    REFS,
    deployment_inspected,
    failed,
    finetunejob,
    gated,
    inspected,
    modeldeployment,
    succeeded,
)
from world import ref as artifact

from anneal_api.outcome import Outcome

Step = Callable[[Driver], object]
WAIT = object()
"""What a step returns whose time has not come."""
MODEL = {"uri": REFS["export"].uri}
OTHER = {"uri": artifact("model", "8").uri}


@dataclass(frozen=True)
class Scenario:
    """A story; `steps` by the tick before which they happen."""

    name: str
    begin: Step
    goal: tuple[str, str]
    """A condition and its status in the end, or ("", "") when the resource is gone."""
    ticks: int = 24
    steps: Mapping[int, Step] = field(default_factory=dict)
    kind: str = "FineTuneJob"

    @property
    def resource(self) -> str:
        return "tune" if self.kind == "FineTuneJob" else "serve"

    def play(self, world: Driver) -> Driver:
        """Let the story happen; what comes late under a fault is waited for."""
        self.begin(world)
        left = sorted(self.steps.items())
        for number in range(6 * self.ticks):
            if left and number >= left[0][0] and left[0][1](world) is not WAIT:
                left.pop(0)
            world.tick()
            if world.crashes or (number >= self.ticks and not left and self.reached(world)):
                break
        world.tick()
        return world

    def reached(self, world: Driver) -> bool:
        """Whether it ended as it should: the condition holds for the newest spec, and nothing is on its way."""
        found = world.server.get(self.kind, NAMESPACE, self.resource)
        if found is None or not self.goal[0]:
            return found is None and not self.goal[0]
        status = found.get("status", {})
        stages = [version["stage"] for version in status.get("versions", [])]
        settled = "Draining" not in stages and stages[-1:] in ([], ["Serving"])
        current = status.get("observedGeneration") == found["metadata"]["generation"]
        held = {c["type"]: c["status"] for c in status.get("conditions", [])}
        return settled and current and held.get(self.goal[0]) == self.goal[1]


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


def serving(world: Driver) -> bool:
    return world.conditions("ModelDeployment", "serve").get("Ready", ("", ""))[0] == "True"


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


def holds_prepare(world: Driver) -> None:
    """Let the prepare stage run until a step ends it."""
    world.player.default.pop("prepare")


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


def refuse_first(world: Driver) -> None:
    world.player.scripts["inspect"] = [failed("Refused", "DataNotFound", "no such file")]


GONE = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
NO_ROOM = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"}
COMPLETE, FAILED = ("Complete", "True"), ("Failed", "True")
KEPT = {"output": {"uri": "pvc://store/anneal", "deletionPolicy": "Delete"}}
RUNS: list[Outcome | None] = [None] * 200

ALL = [
    Scenario("plain", job(), COMPLETE),
    Scenario("running", job(train=[None, None, GOOD["train"]]), COMPLETE),
    Scenario("unmerged", job(output={"uri": "pvc://store/anneal", "merge": False}), COMPLETE),
    Scenario("retried", job(train=[failed("Failed", "NcclError"), failed("Retry", "StoreAway")]), COMPLETE, 30),
    Scenario(
        "exhausted",
        job(train=[failed("Failed", "NcclError")] * 3, faultPolicy={"maxRestarts": 1}),
        FAILED,
    ),
    Scenario("refused", job(train=[failed("Refused", "BadTemplate")]), FAILED, 16),
    Scenario("stage-failed", both(outcome("prepare", failed("Failed", "OutOfDisk")), job()), FAILED, 12),
    Scenario(
        "suspended",
        job(train=RUNS),
        COMPLETE,
        24,
        {
            6: when(has("Training"), change(suspend=True)),
            9: when(has("Suspended"), change()),
            12: when(attempt(2), train_ends),
        },
    ),
    Scenario(
        "preempted",
        job(train=RUNS),
        COMPLETE,
        24,
        {6: when(has("Training"), pod_status(1, conditions=[GONE])), 8: when(attempt(2), train_ends)},
    ),
    Scenario(
        "not-whole",
        job(train=RUNS, workers={"nodes": 2, "startTimeoutSeconds": 30}),
        COMPLETE,
        30,
        {5: pod_status(1, phase="Pending", conditions=[NO_ROOM]), 12: when(attempt(2), train_ends)},
    ),
    Scenario("reused", job(("prepare", "train")), COMPLETE, 16),
    Scenario("all-published", job(("train", "evaluate", "export")), COMPLETE, 12),
    Scenario("deleted", job(train=RUNS), ("", ""), 12, {7: delete}),
    Scenario("artifacts-deleted", job(**KEPT), ("", ""), 30, {16: delete}),
    Scenario("corrected", both(refuse_first, job()), COMPLETE, 30, {4: change(data={"maxLength": 2048})}),
    Scenario("result-lost", both(holds_prepare, job()), COMPLETE, 24, {4: lose_result}),
    Scenario("expired", job(ttlSecondsAfterFinished=60), ("", ""), 40),
    Scenario("late", job(train=RUNS, activeDeadlineSeconds=60), FAILED, 24),
    Scenario(
        "changed-in-flight",
        job(train=RUNS),
        COMPLETE,
        24,
        {
            7: when(has("Training"), change(adapter={"rank": 8})),
            9: when(has("SpecFollowed", "False"), change()),
            12: train_ends,
        },
    ),
    Scenario("served", served(), ("Ready", "True"), 16, kind="ModelDeployment"),
    Scenario(
        "taken-over",
        served(replicas=2),
        ("Ready", "True"),
        50,
        {14: when(serving, served(model=OTHER, replicas=2))},
        "ModelDeployment",
    ),
    Scenario(
        "beyond-budget",
        both(outcome("gate", succeeded(gated(kl=0.5))), served()),
        ("Ready", "True"),
        24,
        {12: when(refused_by_gate, served(gate={"maxLogitKL": 0.6}))},
        "ModelDeployment",
    ),
]  # fmt: skip
BY_NAME = {scenario.name: scenario for scenario in ALL}
