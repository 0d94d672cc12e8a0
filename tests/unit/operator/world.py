"""A cluster in memory with an operator in it, a clock that is turned by hand, and players for pods."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from api_server import ApiServer, Object, Stopped
from pydantic import BaseModel
from stage_player import Player
from tests.model_shapes import SMOLLM2

from anneal_api.base import API_VERSION, ArtifactRef
from anneal_api.outcome import (
    DeploymentInspection,
    DeploymentKeys,
    EvaluateResult,
    FineTuneInspection,
    FineTuneKeys,
    GateResult,
    GateSuite,
    GateTask,
    Outcome,
    PublishResult,
    Score,
    SuiteScore,
    SuitesResult,
    TaskFacts,
    TrainResult,
)
from anneal_api.profiles import OperatorConfig
from anneal_operator import times
from anneal_operator.reconciler import Key, Reconciler

CONFIG = OperatorConfig.model_validate(
    {
        "images": {"trainers": "anneal/trainers:1", "serving": "anneal/serving:1"},
        "accelerators": [
            {
                "name": "a100-80g",
                "nodeSelector": {"anneal.dev/pool": "training"},
                "resourceName": "nvidia.com/gpu",
                "memoryGib": 80,
                "computeCapability": "8.0",
                "overlay": {"sharedMemory": "1Gi", "env": {"NCCL_DEBUG": "WARN"}},
            },
            {
                "name": "a10-24g",
                "nodeSelector": {"anneal.dev/pool": "serving"},
                "resourceName": "nvidia.com/gpu",
                "memoryGib": 24,
                "computeCapability": "8.6",
            },
            {"name": "tiny", "memoryGib": 0.01},
        ],
    }
)
NAMESPACE = "team"
STORE = "pvc://store/anneal"


def ref(stage: str, letter: str) -> ArtifactRef:
    """Return the artifact a stage publishes in these tests."""
    return ArtifactRef(uri=f"{STORE}/{NAMESPACE}/{stage}/{letter * 64}", digest=f"sha256:{letter * 64}")


REFS = {
    "prepare": ref("dataset", "1"),
    "train": ref("adapter", "2"),
    "evaluate": ref("evaluation", "3"),
    "export": ref("model", "4"),
    "suites": ref("suites", "8"),
    "quantize": ref("quantized", "5"),
    "engine": ref("engine", "6"),
    "gate": ref("gate", "7"),
}
SCORES = [Score(name="a", base_loss=2.0, tuned_loss=1.0, rows=9)]
SUITE_SCORES = [SuiteScore(suite="humaneval", score="pass@1", value=0.5, low=0.4, high=0.6, problems=164)]


def succeeded(result: BaseModel) -> Outcome:
    return Outcome(
        verdict="Succeeded", reason="Done", result=result.model_dump(by_alias=True, exclude_none=True)
    )


def failed(verdict: str = "Failed", reason: str = "Broken", message: str = "it broke") -> Outcome:
    return Outcome.model_validate({"verdict": verdict, "reason": reason, "message": message})


def inspected(*published: str, shards: int = 1) -> Outcome:
    """Return the verdict of a FineTuneJob's inspection."""
    return succeeded(
        FineTuneInspection(
            base_digest="sha256:" + "0" * 64,
            shape=SMOLLM2,
            tasks=[TaskFacts(name="a", digest="sha256:" + "9" * 64, rows=100)],
            shards=shards,
            keys=FineTuneKeys(prepare="1" * 64, train="2" * 64, evaluate="3" * 64, export="4" * 64),
            published={stage: REFS[stage] for stage in published},
            scores=SCORES if "evaluate" in published else [],
            suite_scores=SUITE_SCORES if "suites" in published else [],
        )
    )


def gated(kl: float = 0.02, increase: float = 0.03, suites: Sequence[GateSuite] = ()) -> GateResult:
    task = GateTask(name="a", reference_perplexity=4.0, engine_perplexity=4.0 * (1 + increase), logit_kl=kl)
    return GateResult(
        artifact=REFS["gate"],
        logit_kl=kl,
        perplexity_increase=increase,
        tokens=1000,
        tasks=[task],
        suites=list(suites),
    )


def deployment_inspected(*published: str, letter: str = "4") -> Outcome:
    """Return the verdict of a ModelDeployment's inspection."""
    return succeeded(
        DeploymentInspection(
            model=ref("model", letter),
            shape=SMOLLM2,
            keys=DeploymentKeys(quantize="5" * 64, engine="6" * 64, gate="7" * 64),
            published={stage: REFS[stage] for stage in published},
            gate=gated() if "gate" in published else None,
        )
    )


TRAINED = TrainResult(artifact=REFS["train"], step=100, best_step=80, loss=0.5, validation_loss=1.0)
GOOD = {
    "shard": succeeded(PublishResult(artifact=ref("shard", "8"))),
    "prepare": succeeded(PublishResult(artifact=REFS["prepare"])),
    "train": succeeded(TRAINED),
    "evaluate": succeeded(EvaluateResult(artifact=REFS["evaluate"], scores=SCORES)),
    "suites": succeeded(SuitesResult(artifact=REFS["suites"], scores=SUITE_SCORES)),
    "export": succeeded(PublishResult(artifact=REFS["export"])),
    "delete": Outcome(verdict="Succeeded", reason="Done"),
    "quantize": succeeded(PublishResult(artifact=REFS["quantize"])),
    "engine": succeeded(PublishResult(artifact=REFS["engine"])),
    "gate": succeeded(gated()),
}


class AnsweringPods:
    """Pods' own endpoints: one answer an address, port and path."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, int, str], str] = {}
        self.asked: list[tuple[str, int, str]] = []

    def get(self, address: str, port: int, path: str) -> str | None:
        self.asked.append((address, port, path))
        return self.answers.get((address, port, path))


class World:
    """Everything there is."""

    def __init__(self, config: OperatorConfig = CONFIG) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.server = ApiServer(self.text)
        self.player = Player(self.server, self.text)
        self.player.default = dict(GOOD)
        self.pods = AnsweringPods()
        self.config = config
        self.restart()

    def text(self) -> str:
        return times.stamp(self.now)

    def restart(self) -> None:
        """Start the operator anew: nothing of the old one's memory is left."""
        self.operator = Reconciler(self.server, self.pods, self.config, lambda: self.now)

    def key(self, kind: str, name: str) -> Key:
        return Key(kind, NAMESPACE, name)

    def turn(self, kind: str, name: str) -> None:
        """Reconcile once; a stop is followed by a restart."""
        try:
            self.operator.reconcile(self.key(kind, name))
        except Stopped:
            self.restart()
        self.server.collect()

    def run(
        self,
        kind: str,
        name: str,
        turns: int = 40,
        seconds: float = 5.0,
        until: tuple[str, str] | None = None,
    ) -> None:
        """Let operator and nodes work in turn; `until` a condition is true and the operator has stood still."""
        for _ in range(turns):
            before = len(self.server.writes)
            self.turn(kind, name)
            still = len(self.server.writes) == before
            if until and still and self.conditions(kind, name).get(until[0], ("", ""))[0] == until[1]:
                return
            self.player.play()
            self.now += timedelta(seconds=seconds)

    def resource(self, kind: str, name: str) -> Object:
        found = self.server.get(kind, NAMESPACE, name)
        assert found is not None
        return found

    def conditions(self, kind: str, name: str) -> dict[str, tuple[str, str]]:
        held = self.resource(kind, name).get("status", {}).get("conditions", [])
        return {c["type"]: (c["status"], c["reason"]) for c in held}

    def message(self, kind: str, name: str, type_: str) -> str:
        held = self.resource(kind, name)["status"]["conditions"]
        return next(str(c["message"]) for c in held if c["type"] == type_)

    def jobs(self, stage: str = "") -> list[Object]:
        found = self.server.select("Job", NAMESPACE)
        return [j for j in found if stage in ("", j["metadata"].get("labels", {}).get("anneal.dev/stage"))]


def finetunejob(name: str = "tune", **fields: Any) -> Object:
    """Return a FineTuneJob; `fields` replace parts of its spec."""
    spec = {
        "baseModel": {"uri": "pvc://models/base"},
        "tasks": [{"name": "a", "data": {"uri": "pvc://data/a.jsonl"}}],
        "workers": {"nodes": 2},
        "output": {"uri": STORE},
        **fields,
    }
    meta = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": API_VERSION, "kind": "FineTuneJob", "metadata": meta, "spec": spec}


def modeldeployment(name: str = "serve", **fields: Any) -> Object:
    """Return a ModelDeployment; `fields` replace parts of its spec."""
    spec = {
        "model": {"fineTuneJobRef": {"name": "tune"}},
        "engine": {
            "runtime": "openvino",
            "maxBatchSize": 4,
            "maxInputLength": 512,
            "maxSequenceLength": 1024,
        },
        **fields,
    }
    meta = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": API_VERSION, "kind": "ModelDeployment", "metadata": meta, "spec": spec}
