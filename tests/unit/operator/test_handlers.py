"""Which resource an event is about, and that kopf is told to write nothing."""

import asyncio
from typing import Any

import pytest
from api_server import ApiServer
from world import CONFIG, NAMESPACE, World, finetunejob, modeldeployment

from anneal_api.profiles import OperatorConfig
from anneal_operator.cluster.cached import CachedCluster
from anneal_operator.handlers import OWNERS, PATIENCE, SETTLE, STALL_SECONDS, Watch, settings
from anneal_operator.pods import OWNER_ANNOTATION
from anneal_operator.reconciler import Key


class Recorder(Watch):
    """A watch whose queue is a list."""

    def __init__(self, config: OperatorConfig, cache: CachedCluster | None = None) -> None:
        self.seen: list[Key] = []
        self.delays: list[float] = []
        self.patience: list[float] = []
        super().__init__(World().operator, config, cache)

    def _add(self, key: Key, delay: float = 0.0, patience: float = 0.0) -> None:
        self.seen.append(key)
        self.delays.append(delay)
        self.patience.append(patience)


def child(labels: dict[str, str], annotations: dict[str, str]) -> dict[str, Any]:
    return {"metadata": {"name": "c", "namespace": NAMESPACE, "labels": labels, "annotations": annotations}}


@pytest.mark.parametrize(
    ("labels", "annotations", "key"),
    [
        ({"anneal.dev/finetunejob": "tune"}, {}, Key("FineTuneJob", NAMESPACE, "tune")),
        (
            {"anneal.dev/finetunejob": "short-1a"},
            {OWNER_ANNOTATION: "a-very-long-name"},
            Key("FineTuneJob", NAMESPACE, "a-very-long-name"),
        ),
        ({"anneal.dev/modeldeployment": "serve"}, {}, Key("ModelDeployment", NAMESPACE, "serve")),
    ],
)
async def test_a_childs_event_is_about_its_owner(labels: dict, annotations: dict, key: Key) -> None:
    watch = Recorder(CONFIG)
    await watch._child(body=child(labels, annotations))
    assert watch.seen == [key]


async def test_a_new_spec_is_looked_at_at_once_and_an_echo_of_our_own_status_soon() -> None:
    watch = Recorder(CONFIG)
    job = finetunejob()
    job["metadata"]["generation"] = 2
    for seen in (1, 2):
        await watch._resource(body={**job, "status": {"observedGeneration": seen}})
    assert watch.delays == [0.0, SETTLE]
    assert watch.patience == [0.0, PATIENCE]


@pytest.mark.parametrize(
    ("plural", "type_", "meta", "status", "patience"),
    [
        ("jobs", "ADDED", {}, {}, PATIENCE),
        ("jobs", "MODIFIED", {}, {"active": 1}, PATIENCE),
        ("jobs", "MODIFIED", {}, {"conditions": [{"type": "Failed", "status": "True"}]}, 0.0),
        ("jobs", "DELETED", {}, {}, 0.0),
        ("services", "ADDED", {}, {}, PATIENCE),
        ("pods", "ADDED", {}, {"phase": "Pending"}, PATIENCE),
        ("pods", "MODIFIED", {}, {"phase": "Running"}, 0.0),
        ("pods", "MODIFIED", {}, {"phase": "Failed"}, 0.0),
        ("pods", "MODIFIED", {"deletionTimestamp": "2026-01-01T00:00:00Z"}, {"phase": "Pending"}, 0.0),
        ("deployments", "MODIFIED", {}, {}, 0.0),
    ],
)
async def test_what_only_begins_can_wait_and_what_ends_can_not(
    plural: str, type_: str, meta: dict, status: dict, patience: float
) -> None:
    watch = Recorder(CONFIG)
    made = child({"anneal.dev/finetunejob": "tune"}, {})
    made["metadata"] |= meta
    await watch._hear(plural, None, {"type": type_, "object": {**made, "status": status}})
    assert watch.patience == [patience]


async def test_a_child_is_remembered_before_its_owner_is_looked_at() -> None:
    cache = CachedCluster(ApiServer(), OWNERS.values())
    watch = Recorder(CONFIG, cache)
    job = child({"anneal.dev/finetunejob": "tune"}, {})
    job["metadata"] |= {"uid": "u", "resourceVersion": "7"}
    await watch._hear("jobs", None, {"type": None, "object": {**job, "spec": {}}})
    await watch._hear("jobs", None, None)
    assert [o["metadata"]["name"] for o in cache.select("Job", NAMESPACE, "anneal.dev/finetunejob=tune")] == [
        "c"
    ]
    assert (watch.seen, watch.delays) == ([Key("FineTuneJob", NAMESPACE, "tune")], [SETTLE])


async def test_a_deployment_hears_of_the_job_it_follows() -> None:
    watch = Recorder(CONFIG)
    await watch._resource(body=modeldeployment())
    watch.seen.clear()
    await watch._resource(body=finetunejob())
    assert watch.seen == [
        Key("FineTuneJob", NAMESPACE, "tune"),
        Key("ModelDeployment", NAMESPACE, "serve"),
    ]


async def test_a_deployment_hears_of_the_jobs_it_selects() -> None:
    watch = Recorder(CONFIG)
    await watch._resource(body=modeldeployment(model={"selector": {"app": "x", "tier": "1"}}))
    for labels in ({"app": "x"}, {"app": "x", "tier": "1", "more": "y"}):
        watch.seen.clear()
        job = finetunejob()
        job["metadata"]["labels"] = labels
        await watch._resource(body=job)
        followed = Key("ModelDeployment", NAMESPACE, "serve") in watch.seen
        assert followed is ("tier" in labels)


def test_kopf_writes_nothing_and_scans_nothing() -> None:
    made = settings()
    assert made.posting.enabled is False
    assert made.scanning.disabled is True
    watch = Recorder(CONFIG)
    assert not watch.registry._changing.get_all_handlers()
    assert not watch.registry._spawning.get_all_handlers()
    assert len(watch.registry._watching.get_all_handlers()) == 12


async def test_the_probe_tells_of_a_queue_that_ended_and_of_one_that_stands_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("anneal_operator.streams.watching.watch_objs", None)
    monkeypatch.setattr("anneal_operator.streams.watching.infinite_watch", None)
    watch = Watch(World().operator, CONFIG)
    assert watch.trouble() == ""
    await watch._start()
    assert watch.trouble() == ""
    assert watch._queue is not None
    watch._queue.last_turn -= STALL_SECONDS + 1
    assert "has not turned" in watch.trouble()
    assert watch._task is not None
    watch._task.cancel()
    await asyncio.gather(watch._task, return_exceptions=True)
    assert watch.trouble() == "the queue does not run"
