"""While a resource is paused nothing of it is made, removed or scaled; afterwards it goes on where it was."""

from datetime import timedelta

import pytest
from world import NAMESPACE, World, deployment_inspected, finetunejob, inspected, modeldeployment

from anneal_api.base import ANNOTATION_PAUSE

MODEL = f"pvc://store/artifacts/{NAMESPACE}/model/{'4' * 64}"
RESOURCES = {
    "FineTuneJob": (finetunejob(), inspected()),
    "ModelDeployment": (modeldeployment(model={"uri": MODEL}), deployment_inspected()),
}


def annotate(world: World, kind: str, name: str, value: str | None) -> None:
    world.server.patch((kind, NAMESPACE, name), {"metadata": {"annotations": {ANNOTATION_PAUSE: value}}})


@pytest.mark.parametrize("kind", list(RESOURCES))
def test_a_paused_resource_waits_and_goes_on(kind: str) -> None:
    resource, verdict = RESOURCES[kind]
    name = resource["metadata"]["name"]
    world = World()
    world.player.default["inspect"] = verdict
    world.server.put(resource)
    annotate(world, kind, name, "true")
    world.run(kind, name, 5)
    assert world.conditions(kind, name) == {"Reconciled": ("False", "Paused")}
    assert not world.jobs()
    annotate(world, kind, name, None)
    world.run(kind, name, 3)
    assert "Reconciled" not in world.conditions(kind, name)
    assert world.jobs("inspect")


def test_another_value_does_not_pause() -> None:
    world = World()
    world.server.put(finetunejob())
    annotate(world, "FineTuneJob", "tune", "no")
    world.run("FineTuneJob", "tune", 2)
    assert world.jobs("inspect")


def test_a_paused_resource_may_still_be_deleted() -> None:
    world = World()
    world.player.default["inspect"] = inspected()
    world.server.put(finetunejob(output={"uri": "pvc://store/artifacts", "deletionPolicy": "Delete"}))
    world.run("FineTuneJob", "tune", 2)
    annotate(world, "FineTuneJob", "tune", "true")
    world.server.remove("FineTuneJob", NAMESPACE, "tune")
    for _ in range(20):
        world.turn("FineTuneJob", "tune")
        world.player.play()
        world.now += timedelta(seconds=5)
    assert world.server.get("FineTuneJob", NAMESPACE, "tune") is None
