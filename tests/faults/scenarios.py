"""The scenarios of the campaign: what is created, what happens at which tick, and for how many ticks to watch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import steps
from driver import Driver
from steps import (
    OTHER,
    WAIT,
    Step,
    attempt,
    both,
    change,
    delete,
    has,
    job,
    outcome,
    pod_status,
    served,
    serving,
    train_ends,
    when,
)
from world import GOOD, NAMESPACE, failed, gated, inspected, succeeded

from anneal_api.outcome import Outcome


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
        for _ in range(world.hears_every):
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


GONE = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
COMPLETE, FAILED = ("Complete", "True"), ("Failed", "True")
GONE_FOR_GOOD = ("", "")
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
        both(steps.room(1), job(train=RUNS, workers={"nodes": 2, "startTimeoutSeconds": 30})),
        COMPLETE,
        30,
        {5: when(attempt(2), steps.room(2)), 12: when(has("Training"), train_ends)},
    ),
    Scenario("reused", job(("prepare", "train")), COMPLETE, 16),
    Scenario("all-published", job(("train", "evaluate", "export")), COMPLETE, 12),
    Scenario("deleted", job(train=RUNS), GONE_FOR_GOOD, 12, {7: delete}),
    Scenario("artifacts-deleted", job(**KEPT), GONE_FOR_GOOD, 30, {16: delete}),
    Scenario(
        "corrected",
        both(job(), outcome("inspect", failed("Refused", "DataNotFound", "no such file"))),
        COMPLETE,
        30,
        {4: when(steps.says("Inspected", "DataNotFound"), both(outcome("inspect", inspected()), change(data={"maxLength": 2048})))},
    ),
    Scenario("result-lost", both(steps.hold("prepare"), job()), COMPLETE, 24, {4: steps.lose_result}),
    Scenario("expired", job(ttlSecondsAfterFinished=60), GONE_FOR_GOOD, 40),
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
        {14: when(serving, served(model=OTHER, replicas=2, rollout={"pauseSeconds": 0}))},
        "ModelDeployment",
    ),
    Scenario(
        "beyond-budget",
        both(outcome("gate", succeeded(gated(kl=0.5))), served()),
        ("Ready", "True"),
        24,
        {12: when(steps.refused_by_gate, served(gate={"maxLogitKL": 0.6}))},
        "ModelDeployment",
    ),
]  # fmt: skip
SMALL = {"nodes": 2, "minNodes": 1, "startTimeoutSeconds": 30}
HALF_AN_HOUR = 1800
# One word of progress: how often what moves is shown depends on when it is looked at.
SHRINKS: dict[int, Step] = {
    14: when(attempt(2), steps.progress(2, 10, 10)),
    18: when(steps.shown(10), steps.node("node-1")),
    19: steps.pass_time(HALF_AN_HOUR),
}
SIZES = [
    Scenario(
        "shrunk-and-grown",
        both(steps.node("node-0"), steps.node("node-1", ready=False), steps.room(1), job(train=RUNS, workers=SMALL)),
        COMPLETE,
        40,
        {**SHRINKS, 20: when(attempt(3), steps.room(2)), 28: when(attempt(3), train_ends)},
    ),
    Scenario(
        "grown-in-vain",
        both(steps.node("node-0"), steps.node("node-1", ready=False), steps.room(1), job(train=RUNS, workers=SMALL)),
        COMPLETE,
        50,
        {**SHRINKS, 28: when(attempt(4), train_ends)},
    ),
]  # fmt: skip
QUEUED = job(train=RUNS, queueName="gpus")
KUEUE = [
    Scenario(
        "queued",
        QUEUED,
        COMPLETE,
        24,
        {4: steps.waits, 8: steps.admit(1), 11: when(has("Training"), train_ends)},
    ),
    Scenario(
        "queue-evicted",
        QUEUED,
        COMPLETE,
        30,
        {
            4: steps.admit(1),
            8: when(has("Training"), steps.evict(1)),
            11: steps.admit(2),
            14: when(has("Training"), train_ends),
        },
    ),
    Scenario("queued-and-deleted", QUEUED, GONE_FOR_GOOD, 12, {5: steps.waits, 7: delete}),
]
BY_HAND = [
    Scenario(
        "retried-by-hand",
        job(train=[failed("Refused", "BadTemplate")]),
        COMPLETE,
        24,
        {8: when(has("Failed"), steps.annotate("once more"))},
    ),
    Scenario(
        "stage-retried-by-hand",
        both(steps.fails_once("prepare", failed("Failed", "OutOfDisk")), job()),
        COMPLETE,
        24,
        {8: when(has("Failed"), steps.annotate("once more"))},
    ),
    Scenario("suspended-from-the-start", job(suspend=True), COMPLETE, 24, {4: when(has("Suspended"), change())}),
    Scenario(
        "suspended-preparing",
        both(steps.hold("prepare"), job()),
        COMPLETE,
        24,
        {
            4: when(steps.runs("prepare"), both(change(suspend=True), outcome("prepare", GOOD["prepare"]))),
            8: when(has("Suspended"), change()),
        },
    ),
    Scenario("changed-while-inspected", both(job(), steps.hold("inspect")), COMPLETE, 24, {3: when(steps.runs("inspect"), job(adapter={"rank": 8}))}),
    Scenario("extended", job(train=RUNS, activeDeadlineSeconds=60), COMPLETE, 24, {6: when(has("Training"), change()), 16: train_ends}),
    Scenario(
        "late-although-suspended",
        job(train=RUNS, activeDeadlineSeconds=60),
        FAILED,
        40,
        {
            6: when(has("Training"), change(suspend=True, activeDeadlineSeconds=60)),
            9: when(has("Suspended"), steps.pass_time(600)),
            10: change(activeDeadlineSeconds=60),
        },
    ),
    Scenario("expired-later", job(), GONE_FOR_GOOD, 24, {14: when(has("Complete"), change(ttlSecondsAfterFinished=5))}),
    Scenario("expired-with-artifacts", job(**KEPT, ttlSecondsAfterFinished=60), GONE_FOR_GOOD, 40),
]  # fmt: skip
DELETED = [
    *(
        Scenario(f"deleted-in-{stage}", both(job(), steps.hold(stage)), GONE_FOR_GOOD, 10, {3: when(steps.runs(stage), delete)})
        for stage in ("inspect", "prepare", "evaluate")
    ),
    Scenario("deleted-when-complete", job(), GONE_FOR_GOOD, 16, {14: when(has("Complete"), delete)}),
    Scenario(
        "deleted-when-suspended",
        job(train=RUNS, **KEPT),
        GONE_FOR_GOOD,
        24,
        {6: when(has("Training"), change(suspend=True, **KEPT)), 9: when(has("Suspended"), delete)},
    ),
    Scenario("artifacts-deleted-in-training", job(train=RUNS, **KEPT), GONE_FOR_GOOD, 20, {7: when(has("Training"), delete)}),
]  # fmt: skip
DEPLOYED = [
    Scenario(
        "followed",
        both(steps.follow_job, job()),
        ("Ready", "True"),
        40,
        {1: when(has("Complete"), steps.inspects_deployment)},
        "ModelDeployment",
    ),
    Scenario(
        "scaled",
        served(),
        ("Ready", "True"),
        30,
        {12: when(serving, served(replicas=3)), 16: when(steps.replicas(3), served(replicas=1))},
        "ModelDeployment",
    ),
    Scenario(
        "build-retried",
        both(steps.fails_once("quantize", failed("Failed", "OutOfDisk")), served()),
        ("Ready", "True"),
        30,
        {6: when(steps.runs("quantize"), steps.pass_time(600))},
        "ModelDeployment",
    ),
    Scenario(
        "undeployed-in-build",
        both(served(), steps.hold("engine")),
        GONE_FOR_GOOD,
        12,
        {4: when(steps.runs("engine"), steps.delete_deployment)},
        "ModelDeployment",
    ),
    Scenario(
        "undeployed", served(), GONE_FOR_GOOD, 16, {12: when(serving, steps.delete_deployment)}, "ModelDeployment"
    ),
]  # fmt: skip
ALL += [*SIZES, *KUEUE, *BY_HAND, *DELETED, *DEPLOYED]
BY_NAME = {scenario.name: scenario for scenario in ALL}
