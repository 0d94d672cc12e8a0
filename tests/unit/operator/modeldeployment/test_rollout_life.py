"""Rollouts from the first share to the last, and back, against the API server in memory and a gateway that counts."""

import json
from datetime import timedelta
from typing import Any

import pytest
from world import (
    NAMESPACE,
    REFS,
    STORE,
    World,
    deployment_inspected,
    finetunejob,
    inspected,
    modeldeployment,
    ref,
)

from anneal_api.runs import GatewayConfig
from anneal_operator import times

KIND, NAME = "ModelDeployment", "serve"
OLD, NEW = REFS["export"].uri, ref("model", "8").uri
RULES = {"steps": [10, 50], "pauseSeconds": 30}


class Scene:
    """A deployment that serves its first version, and a gateway that tells what it routes and counts."""

    def __init__(self, **fields: Any) -> None:
        self.fields = {"rollout": RULES, "replicas": 4, **fields}
        self.failed, self.slower = 0, 1.0
        self.answers = True
        self.trial, self.since = "", None
        self.world = World()
        self.spec(OLD, "4")
        self.run(12)
        self.world.server.put(gateway_pod(self.world))

    def spec(self, uri: str, letter: str, **annotations: str) -> None:
        """Apply the deployment with a model."""
        self.world.player.default["inspect"] = deployment_inspected(letter=letter)
        made = modeldeployment(model={"uri": uri}, **self.fields)
        made["metadata"]["annotations"] = {f"anneal.dev/{key}": value for key, value in annotations.items()}
        self.world.server.put(made)

    def hold(self, run: str) -> None:
        self.spec(NEW, "8", rollback=run)

    def run(self, turns: int, seconds: float = 5.0) -> None:
        for _ in range(turns):
            self._tell()
            self.world.run(KIND, NAME, 1, seconds)

    def until(self, stage: str, turns: int = 40) -> None:
        """Run until the newest version is at a stage."""
        for _ in range(turns):
            self.run(1)
            if self.stages[-1] == stage:
                return
        raise AssertionError(f"{stage} was never reached: {self.stages}")

    def _tell(self) -> None:
        if self.world.server.get("ConfigMap", NAMESPACE, "serve-gateway") is None:
            return
        config = self.config
        if config.trial != self.trial or self.since is None:
            self.trial, self.since = config.trial, self.world.now
        lines = [
            f'anneal_gateway_trial_seconds{{trial="{self.trial}"}} {(self.world.now - self.since).seconds}'
        ]
        for version in config.versions:
            new = version.name == self.newest["run"]
            labels = f'trial="{self.trial}",version="{version.name}"'
            outcomes = {"ok": 100, "failed": self.failed if new else 0}
            lines += [
                f'anneal_version_requests_total{{{labels},outcome="{o}"}} {n}' for o, n in outcomes.items()
            ]
            seconds = 10 * (self.slower if new else 1)
            lines.append(f"anneal_version_first_token_seconds_total{{{labels}}} {seconds}")
        self.world.pods.answers = {("10.0.1.2", 8080, "/metrics"): "\n".join(lines)} if self.answers else {}

    @property
    def config(self) -> GatewayConfig:
        held = self.world.server.get("ConfigMap", NAMESPACE, "serve-gateway")
        assert held is not None
        return GatewayConfig.model_validate(json.loads(held["data"]["gateway.json"]))

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.world.resource(KIND, NAME)["status"])

    @property
    def newest(self) -> dict[str, Any]:
        return dict(self.status["versions"][-1]) if self.status.get("versions") else {"run": ""}

    @property
    def stages(self) -> list[str]:
        return [v["stage"] for v in self.status["versions"]]

    @property
    def weights(self) -> list[int]:
        return [v.weight for v in self.config.versions]

    @property
    def replicas(self) -> list[int]:
        """Replicas by version, the oldest first."""
        found = {
            d["metadata"]["labels"]["anneal.dev/version"]: d["spec"]["replicas"]
            for d in self.world.server.select("Deployment", NAMESPACE)
            if "-replicas-" in d["metadata"]["name"]
        }
        return [found[v["run"]] for v in self.status["versions"] if v["run"] in found]

    @property
    def reasons(self) -> list[str]:
        return [e["reason"] for e in self.world.server.select("Event", NAMESPACE)]


def gateway_pod(world: World) -> dict[str, Any]:
    labels = {"anneal.dev/modeldeployment": NAME, "anneal.dev/stage": "gateway"}
    owner = {"kind": "ReplicaSet", "uid": world.resource(KIND, NAME)["metadata"]["uid"]}
    ready = {"type": "Ready", "status": "True"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "g", "namespace": NAMESPACE, "labels": labels, "ownerReferences": [owner]},
        "status": {"phase": "Running", "podIP": "10.0.1.2", "conditions": [ready]},
    }


def test_a_good_version_takes_over_share_by_share() -> None:
    scene = Scene()
    assert (scene.weights, scene.config.trial) == ([100], "")
    scene.spec(NEW, "8")
    seen = []
    for _ in range(60):
        scene.run(1)
        now = (scene.weights, scene.replicas)
        seen += [now] if now not in seen[-1:] else []
    assert seen == [
        ([100], [4]),
        ([100], [4, 1]),
        ([90, 10], [4, 1]),
        ([90, 10], [4, 2]),
        ([50, 50], [4, 2]),
        ([50, 50], [4, 4]),
        ([0, 100], [4, 4]),
        ([100], [4, 4]),
        ([100], [4]),
    ]
    assert scene.stages == ["Retired", "Serving"]
    assert scene.world.conditions(KIND, NAME)["RolledOut"] == ("True", "Serving")
    assert scene.reasons.count("Canary") == 3


def test_each_share_is_watched_for_the_pause() -> None:
    scene = Scene()
    scene.spec(NEW, "8")
    scene.until("Canary")
    scene.run(6)
    assert scene.weights == [90, 10]
    scene.run(3)
    assert scene.weights == [50, 50]


@pytest.mark.parametrize(
    ("failed", "slower", "why"), [(30, 1.0, "maxErrorRate"), (0, 2.0, "maxLatencyRatio")]
)
def test_a_bad_version_is_rolled_back_and_the_old_one_serves_all(
    failed: int, slower: float, why: str
) -> None:
    scene = Scene()
    scene.spec(NEW, "8")
    scene.until("Canary")
    scene.failed, scene.slower = failed, slower
    scene.run(2)
    assert scene.stages == ["Serving", "RolledBack"]
    assert why in scene.newest["message"]
    assert scene.weights == [100]
    assert scene.replicas == [4, 1], "streams that run there still end there"
    assert scene.world.conditions(KIND, NAME)["RolledOut"] == ("False", "RolledBack")
    assert "RolledBack" in scene.reasons
    scene.run(8, 15.0)
    assert scene.replicas == [4]
    assert scene.stages == ["Serving", "RolledBack"], "it is not tried again by itself"


def test_a_gate_that_became_narrower_rolls_back() -> None:
    scene = Scene()
    scene.spec(NEW, "8")
    scene.until("Canary")
    scene.fields["gate"] = {"maxLogitKL": 0.001}
    scene.spec(NEW, "8")
    scene.run(1)
    assert scene.stages == ["Serving", "RolledBack"]
    assert "maxLogitKL" in scene.newest["message"]


def test_nothing_is_promoted_on_the_word_of_some_gateways_and_not_waited_for_for_ever() -> None:
    scene = Scene()
    scene.spec(NEW, "8")
    scene.until("Canary")
    scene.answers = False
    scene.run(12)
    assert scene.weights == [90, 10]
    scene.world.now += timedelta(seconds=1800)
    scene.run(1)
    assert scene.stages == ["Serving", "RolledBack"]


def test_a_share_whose_replicas_do_not_come_is_given_back() -> None:
    scene = Scene()
    scene.spec(NEW, "8")
    scene.until("Canary")
    scene.world.player._deploy = lambda deployment: None  # type: ignore[method-assign]
    scene.run(12)
    assert (scene.stages[-1], scene.weights) == ("Starting", [90, 10])
    scene.world.now += timedelta(seconds=1800)
    scene.run(1)
    assert (scene.stages[-1], scene.weights) == ("RolledBack", [100])


@pytest.mark.parametrize(
    ("strategy", "steps", "replicas"),
    [("borrowReplica", [50], [[4], [2, 2], [0, 4], [4]]), ("recreate", [], [[4], [0, 4], [4]])],
)
def test_without_a_spare_accelerator_no_replica_is_added(
    strategy: str, steps: list[int], replicas: list[list[int]]
) -> None:
    scene = Scene(rollout={"strategy": strategy, "steps": steps, "pauseSeconds": 30})
    scene.spec(NEW, "8")
    seen = []
    for _ in range(60):
        scene.run(1)
        seen += [scene.replicas] if scene.replicas not in seen[-1:] else []
    assert seen == replicas
    assert scene.stages == ["Retired", "Serving"]


def test_recreate_brings_the_old_version_back_when_the_new_one_fails() -> None:
    scene = Scene(rollout={"strategy": "recreate", "pauseSeconds": 30})
    scene.spec(NEW, "8")
    scene.until("Canary")
    scene.failed = 50
    scene.run(3)
    assert (scene.weights, scene.replicas) == ([100], [4])


def test_a_rollout_under_way_is_stopped_by_hand_at_once() -> None:
    scene = Scene()
    scene.spec(NEW, "8")
    scene.until("Canary")
    scene.hold(scene.newest["run"])
    scene.run(1)
    assert (scene.weights, scene.stages) == ([100], ["Serving", "Draining"])
    scene.run(8, 15.0)
    assert scene.stages == ["Serving", "Retired"]
    scene.spec(NEW, "8")
    scene.until("Serving")
    assert scene.weights == [100], "without the annotation it is rolled out after all"


def served_twice(**fields: Any) -> Scene:
    scene = Scene(**fields)
    scene.spec(NEW, "8")
    scene.until("Serving")
    return scene


def test_a_version_that_serves_is_rolled_back_by_hand_without_steps() -> None:
    scene = served_twice()
    old = scene.status["versions"][0]["run"]
    scene.hold(scene.newest["digest"])
    scene.run(1)
    assert [v.name for v in scene.config.versions] == [old], "its replicas were there still"
    assert scene.stages == ["Serving", "Draining"]


def test_an_older_version_comes_back_when_its_replicas_do() -> None:
    scene = served_twice()
    scene.run(8, 15.0)
    old, new = (v["run"] for v in scene.status["versions"])
    played = len(scene.world.player.played)
    scene.hold(new)
    scene.run(1)
    assert [v.name for v in scene.config.versions] == [new]
    scene.run(2)
    assert [v.name for v in scene.config.versions] == [old]
    scene.run(8, 15.0)
    assert scene.stages == ["Serving", "Retired"]
    assert len(scene.world.player.played) == played, "nothing is built again"


def test_the_only_version_cannot_be_rolled_back() -> None:
    scene = Scene()
    scene.spec(OLD, "4", rollback=scene.newest["run"])
    scene.run(3)
    assert scene.stages == ["Serving"]
    assert "NoEarlierVersion" in scene.reasons


def test_another_version_in_the_middle_of_a_rollout_takes_its_place() -> None:
    scene = Scene()
    scene.spec(NEW, "8")
    scene.until("Canary")
    scene.spec(ref("model", "9").uri, "9")
    scene.run(2)
    assert (scene.stages[:2], scene.weights) == (["Serving", "Draining"], [100])
    scene.until("Serving")
    assert scene.stages == ["Retired", "Retired", "Serving"] or scene.stages[0] == "Draining"


@pytest.mark.slow
@pytest.mark.parametrize("where", ["stop_before", "stop_after"])
def test_an_operator_that_stops_at_any_write_of_a_rollout_goes_on(where: str) -> None:
    def rolled(number: int) -> Scene:
        scene = Scene(replicas=1, rollout={"steps": [50], "pauseSeconds": 5})
        first = len(scene.world.server.writes)
        scene.spec(NEW, "8")
        if number:
            setattr(scene.world.server, where, first + number)
        scene.run(48)
        scene.writes = len(scene.world.server.writes) - first  # type: ignore[attr-defined]
        return scene

    calm = rolled(0)
    assert calm.stages == ["Retired", "Serving"]
    for number in range(1, calm.writes + 1, 3):  # type: ignore[attr-defined]
        scene = rolled(number)
        assert scene.stages == calm.stages, number
        assert scene.replicas == calm.replicas, number
        assert scene.world.player.played == calm.world.player.played, number


LABELS = {"app": "x"}


def complete(world: World, name: str, letter: str) -> None:
    """Put a FineTuneJob that completes now."""
    job = finetunejob(name)
    job["metadata"]["labels"] = LABELS
    world.server.put(job)
    done = {
        "type": "Complete",
        "status": "True",
        "reason": "Succeeded",
        "lastTransitionTime": times.stamp(world.now),
    }
    merged = {"uri": f"{STORE}/team/model/{letter * 64}", "digest": f"sha256:{letter * 64}"}
    status = {"conditions": [done], "artifacts": {"merged": merged}}
    world.server.set_status("FineTuneJob", NAMESPACE, name, status)
    world.player.default["inspect"] = deployment_inspected(letter=letter)


def following(**model: Any) -> World:
    world = World()
    world.server.put(modeldeployment(model={"selector": LABELS, **model}, rollout={"pauseSeconds": 0}))
    return world


def adopted(world: World, turns: int = 30) -> str:
    world.run(KIND, NAME, turns)
    return str(world.resource(KIND, NAME)["status"]["versions"][-1]["digest"])[-1]


def test_a_selector_follows_success_after_success() -> None:
    world = following()
    world.player.default["inspect"] = inspected()
    other = finetunejob("other")
    world.server.put(other)
    world.run(KIND, NAME, 2)
    assert world.conditions(KIND, NAME)["Adopted"] == ("False", "WaitingForFineTuneJob")
    complete(world, "second", "4")
    assert adopted(world) == "4"
    world.now += timedelta(minutes=1)
    complete(world, "first", "8")
    assert adopted(world) == "8"
    assert world.resource(KIND, NAME)["status"]["followed"]["job"] == "first"


def test_deleting_jobs_brings_no_older_model_back() -> None:
    world = following()
    complete(world, "a", "4")
    adopted(world)
    world.now += timedelta(minutes=1)
    complete(world, "b", "8")
    adopted(world)
    world.server.remove("FineTuneJob", NAMESPACE, "b")
    assert adopted(world, 3) == "8"
    world.server.remove("FineTuneJob", NAMESPACE, "a")
    assert adopted(world, 3) == "8"
    assert "stays adopted" in world.message(KIND, NAME, "Adopted")


def test_a_pin_stops_following_and_goes_back_without_building_anew() -> None:
    world = following()
    complete(world, "a", "4")
    adopted(world)
    run = world.resource(KIND, NAME)["status"]["versions"][-1]["run"]
    world.now += timedelta(minutes=1)
    complete(world, "b", "8")
    adopted(world)
    played = len(world.player.played)
    pinned = {"selector": LABELS, "version": f"sha256:{'4' * 64}"}
    world.server.put(modeldeployment(model=pinned, rollout={"pauseSeconds": 0}))
    assert adopted(world) == "4"
    assert world.resource(KIND, NAME)["status"]["versions"][-1]["run"] == run
    assert len(world.player.played) == played
