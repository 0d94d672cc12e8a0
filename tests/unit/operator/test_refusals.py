"""Children that the API server will not have: quotas, policies and rights, told in a condition until they give way."""

from collections.abc import Iterator

import pytest
from api_server import ApiServer, Object
from world import (
    NAMESPACE,
    World,
    deployment_inspected,
    finetunejob,
    inspected,
    modeldeployment,
)

from anneal_api.base import LABEL_STAGE
from anneal_operator import stuck
from anneal_operator.cluster.errors import ApiError
from anneal_operator.observed import Refusal
from anneal_operator.reconciler import Reconciler

QUOTA = "exceeded quota: team, requested: count/jobs.batch=1, used: count/jobs.batch=4, limited: count/jobs.batch=4"
POLICY = "admission webhook policy.example.com denied the request: no label cost-centre"
MODEL = {"uri": f"pvc://store/anneal/{NAMESPACE}/model/{'4' * 64}"}


class Strict(ApiServer):
    """Refuses objects of one kind and stage while `said` says why."""

    kind, stage, said = "", "", ""

    def create(self, obj: Object) -> Object:
        self._judge(obj)
        return super().create(obj)

    def apply(self, obj: Object) -> Object:
        self._judge(obj)
        return super().apply(obj)

    def _judge(self, obj: Object) -> None:
        labels = obj["metadata"].get("labels", {})
        if self.said and obj["kind"] == self.kind and labels.get(LABEL_STAGE) == self.stage:
            raise ApiError(403, "Forbidden", f'{obj["kind"]} "x" is forbidden: {self.said}')


def begun(resource: str, kind: str, stage: str, said: str) -> World:
    world = World()
    world.server = Strict(world.text)
    world.server.kind, world.server.stage, world.server.said = kind, stage, said
    world.player.server = world.server
    world.restart()
    if resource == "FineTuneJob":
        world.player.default["inspect"] = inspected()
        world.server.put(finetunejob())
    else:
        world.player.default["inspect"] = deployment_inspected()
        world.server.put(modeldeployment(model=MODEL))
    return world


def look(world: World, resource: str, turns: int) -> Iterator[list[str]]:
    """Yield what each look has written; a refused one ends with an error."""
    name = "tune" if resource == "FineTuneJob" else "serve"
    for _ in range(turns):
        before = len(world.server.writes)
        try:
            world.run(resource, name, 1)
        except ApiError:
            world.player.play()
        yield world.server.writes[before:]


def told(world: World, reason: str) -> list[str]:
    return [e["message"] for e in world.server.select("Event", NAMESPACE) if e["reason"] == reason]


@pytest.mark.parametrize(
    ("resource", "kind", "stage", "condition"),
    [
        ("FineTuneJob", "ConfigMap", "inspect", "Inspected"),
        ("FineTuneJob", "ConfigMap", "plan", "PlanReady"),
        ("FineTuneJob", "Job", "prepare", "DataPrepared"),
        ("FineTuneJob", "Service", "train", "Training"),
        ("FineTuneJob", "Job", "train", "Training"),
        ("FineTuneJob", "Job", "export", "Exported"),
        ("ModelDeployment", "ConfigMap", "plan", "Inspected"),
        ("ModelDeployment", "Job", "quantize", "Quantized"),
        ("ModelDeployment", "Job", "gate", "GatePassed"),
    ],
)
def test_a_child_beyond_its_quota_is_told_where_it_is_missed_and_made_when_there_is_room(
    resource: str, kind: str, stage: str, condition: str
) -> None:
    world, name = begun(resource, kind, stage, QUOTA), "tune" if resource == "FineTuneJob" else "serve"
    written = list(look(world, resource, 20))
    assert world.conditions(resource, name)[condition] == ("False", "QuotaExceeded")
    message = world.message(resource, name, condition)
    assert f"ResourceQuota team of the namespace leaves no room for {kind} " in message
    assert "limited: count/jobs.batch=4" in message
    assert "raise it" in message
    assert world.resource(resource, name)["status"]["phase"] not in ("Refused", "Failed")
    assert written[-1] == []  # nobody writes again and again what does not change
    assert max(sum(what.startswith("status ") for what in look) for look in written) == 1
    assert len(told(world, "QuotaExceeded")) == 1
    world.server.said = ""
    list(look(world, resource, 20))
    assert world.conditions(resource, name)["Complete" if resource == "FineTuneJob" else "Ready"][0] == "True"
    assert "QuotaExceeded" not in [reason for _, reason in world.conditions(resource, name).values()]


def test_an_operator_that_has_just_started_finds_out_by_trying() -> None:
    world = begun("FineTuneJob", "Job", "train", QUOTA)
    list(look(world, "FineTuneJob", 10))
    world.operator = Reconciler(world.server, world.pods, world.config, lambda: world.now)
    list(look(world, "FineTuneJob", 3))
    assert world.conditions("FineTuneJob", "tune")["Training"] == ("False", "QuotaExceeded")
    assert len(told(world, "QuotaExceeded")) == 1


def test_a_running_group_whose_service_is_refused_is_followed_and_told_of() -> None:
    world = begun("FineTuneJob", "Service", "train", "")
    world.player.scripts["train"] = [None] * 60
    list(look(world, "FineTuneJob", 8))
    (name,) = world.server.names("Service")
    world.server.remove("Service", NAMESPACE, name)
    world.server.said = QUOTA
    written = list(look(world, "FineTuneJob", 4))
    assert world.conditions("FineTuneJob", "tune")["ServiceReady"] == ("False", "QuotaExceeded")
    message = world.message("FineTuneJob", "tune", "ServiceReady")
    assert "leaves no room for Service" in message
    assert "raise it" in message
    assert "do not find each other" in message
    assert written[-1] == []
    key = world.key("FineTuneJob", "tune")
    again = world.operator.reconcile(key)
    assert again is not None
    assert (again - world.now).total_seconds() <= 30  # no back-off while there is a group to follow
    world.server.said = ""
    list(look(world, "FineTuneJob", 3))
    assert world.conditions("FineTuneJob", "tune")["ServiceReady"] == ("True", "Created")
    assert len(told(world, "QuotaExceeded")) == 1


def test_a_policy_is_quoted() -> None:
    world = begun("FineTuneJob", "Job", "prepare", POLICY)
    list(look(world, "FineTuneJob", 10))
    assert world.conditions("FineTuneJob", "tune")["DataPrepared"] == ("False", "CreationRefused")
    assert "no label cost-centre" in world.message("FineTuneJob", "tune", "DataPrepared")
    assert told(world, "WriteFailed") == []


def test_a_quota_that_pods_do_not_declare_themselves_to_says_how_they_can() -> None:
    said = 'pods "p" is forbidden: failed quota: compute: must specify limits.cpu for: main'
    found = stuck.refused(Refusal("Pod", "p", said))
    assert found.reason == "QuotaUndeclared"
    assert "ResourceQuota compute" in found.message
    assert "must specify limits.cpu" in found.message
    assert "LimitRange" in found.message
