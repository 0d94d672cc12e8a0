"""Accelerator-seconds of a deployment: what is held times how long, summed at changes and now and then, never back."""

from datetime import UTC, datetime, timedelta

from world import GOOD, NAMESPACE, REFS, World, deployment_inspected, modeldeployment

from anneal_api.modeldeployment import ModelDeploymentStatus
from anneal_operator import times
from anneal_operator.metrics import Metrics
from anneal_operator.modeldeployment.cost import EVERY, charged
from anneal_operator.reconciler import Reconciler

KIND, NAME = "ModelDeployment", "serve"
START = datetime(2026, 1, 1, tzinfo=UTC)


def later(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def test_a_sum_is_what_was_held_times_how_long() -> None:
    two = charged(ModelDeploymentStatus(), 2, START)
    assert (two.accelerator_seconds, two.accelerators) == (0, 2)
    three = charged(two, 3, later(100))
    none = charged(three, 0, later(110))
    assert (three.accelerator_seconds, none.accelerator_seconds) == (200, 230)
    assert none.charged_until is None
    assert charged(none, 1, later(500)).accelerator_seconds == 230


def test_a_clock_that_goes_back_takes_nothing_back() -> None:
    held = charged(charged(ModelDeploymentStatus(), 4, START), 4, later(50))
    assert charged(held, 4, later(20)).accelerator_seconds == 200


class Scene:
    """A deployment of replicas on two accelerators each, whose pods are placed by hand."""

    def __init__(self, building: str = "") -> None:
        self.world = World()
        self.world.player.default.pop(building, None)
        self.counted = Metrics()
        self.restart()
        self.world.player.default["inspect"] = deployment_inspected()
        engine = {"runtime": "tensorrt-llm-pytorch", "tensorParallelSize": 2}
        self.world.server.put(modeldeployment(model={"uri": REFS["export"].uri}, engine=engine))
        self.world.run(KIND, NAME, 20)

    def restart(self) -> None:
        world = self.world
        world.operator = Reconciler(world.server, world.pods, world.config, lambda: world.now, self.counted)

    @property
    def status(self) -> ModelDeploymentStatus:
        return ModelDeploymentStatus.model_validate(self.world.resource(KIND, NAME)["status"])

    def pod(self, name: str, node: str, stage: str = "serve", phase: str = "Running") -> None:
        run = next(v.run for v in self.status.versions if v.stage == "Serving")
        labels = {"modeldeployment": NAME, "stage": stage, "version": run}
        owner = {"kind": "ReplicaSet", "uid": self.world.resource(KIND, NAME)["metadata"]["uid"]}
        meta = {"name": name, "namespace": NAMESPACE, "ownerReferences": [owner]}
        meta["labels"] = {f"anneal.dev/{key}": value for key, value in labels.items()}
        spec, status = {"nodeName": node}, {"phase": phase}
        self.world.server.put(
            {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec, "status": status}
        )

    def look(self, seconds: float = 0.0) -> int:
        """Let time pass, look once, and return the writes."""
        self.world.now += timedelta(seconds=seconds)
        before = len(self.world.server.writes)
        self.world.turn(KIND, NAME)
        return len(self.world.server.writes) - before


def test_pods_cost_while_they_have_a_node() -> None:
    scene = Scene()
    built = scene.status.accelerator_seconds
    assert scene.status.accelerators == 0
    scene.pod("a", "n1")
    scene.pod("b", "", phase="Pending")
    scene.pod("g", "n1", stage="gateway")
    scene.look()
    assert (scene.status.accelerators, scene.status.accelerator_seconds) == (2, built)
    scene.pod("b", "n2")
    scene.look(60)
    assert (scene.status.accelerators, scene.status.accelerator_seconds) == (4, built + 120)
    scene.world.server.remove("Pod", NAMESPACE, "a")
    scene.world.server.set_status("Pod", NAMESPACE, "b", {"phase": "Failed"})
    scene.look(10)
    assert (scene.status.accelerators, scene.status.accelerator_seconds) == (0, built + 160)
    assert scene.status.charged_until is None


def test_building_costs_what_its_pods_hold() -> None:
    scene = Scene(building="engine")
    assert scene.status.accelerators == 2
    before = scene.status.accelerator_seconds
    (job,) = scene.world.jobs("engine")
    scene.world.now += timedelta(seconds=30)
    scene.world.player.end(job, GOOD["engine"])
    scene.look()
    assert scene.status.accelerators == 0
    assert scene.status.accelerator_seconds > before + 2 * 30


def test_at_rest_it_writes_once_in_a_while() -> None:
    scene = Scene()
    scene.pod("a", "n1")
    scene.look()
    before = scene.status.accelerator_seconds
    assert [scene.look(EVERY / 3) for _ in range(6)] == [0, 0, 1, 0, 0, 1]
    assert scene.status.accelerator_seconds == before + 2 * 2 * EVERY


def test_an_operator_that_was_away_counts_on_and_its_metric_starts_anew() -> None:
    scene = Scene()
    scene.pod("a", "n1")
    scene.look()
    before, scene.counted = scene.status.accelerator_seconds, Metrics()
    scene.restart()
    scene.look(5000)
    assert scene.status.accelerator_seconds == before + 10_000
    assert scene.status.charged_until == times.stamp(scene.world.now)
    line = f'anneal_accelerator_seconds_total{{kind="{KIND}",name="{NAME}",namespace="{NAMESPACE}"}} 10000\n'
    assert line in scene.counted.text()
    scene.world.server.remove(KIND, NAMESPACE, NAME)
    scene.look()
    assert line not in scene.counted.text()
