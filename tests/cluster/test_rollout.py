"""Rollouts that end by themselves, and those that need no room beside what serves, on real nodes under load."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.cluster.endless import (
    NAME,
    SHORT,
    STREAMS,
    another_version,
    gone,
    names,
    pods,
    served,
    stage,
)
from tests.cluster.kube import Json, Kube, holds
from tests.cluster.load import load
from tests.cluster.test_load import deployment, model  # noqa: F401 (fixtures)

pytestmark = [pytest.mark.cluster, pytest.mark.full]


@contextmanager
def counted(team: Kube) -> Iterator[list[int]]:
    """Count the replicas that are not on their way out, again and again.

    One that leaves keeps its accelerator until its streams have ended, and the scheduler gives it to nobody before; of the
    local cluster's processors there are enough, so that the next one starts beside it.
    """
    counts, over = [0], threading.Event()

    def count() -> None:
        while not over.wait(0.5):
            counts.append(len(pods(team, "serve")))

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield counts
    finally:
        over.set()
        thread.join()


def test_a_slow_version_is_rolled_back(team: Kube, deployment: Json, model: str) -> None:  # noqa: F811
    before = names(pods(team, "serve"))
    rules = {"steps": [50], "pauseSeconds": 240, "maxLatencyRatio": 2}
    with load(team, NAME, STREAMS, SHORT) as made:
        another_version(team, model, 1, rollout=rules)
        found = team.wait("modeldeployment", NAME, stage("RolledBack"), 400, "rolled back")
    newest = found["status"]["versions"][-1]
    assert "times as slow as the old version (spec.rollout.maxLatencyRatio: 2)" in newest["message"]
    assert newest["trafficPercent"] == 0
    assert found["status"]["versions"][0]["trafficPercent"] == 100
    assert made.failed == []
    gone(team, names(pods(team, "serve")) - before)
    assert names(pods(team, "serve")) == before


def test_recreate_runs_one_version_at_a_time(team: Kube, deployment: Json, model: str) -> None:  # noqa: F811
    before = names(pods(team, "serve"))
    with load(team, NAME, STREAMS, SHORT) as made, counted(team) as counts:
        another_version(team, model, 9, rollout={"strategy": "recreate"})
        began = time.monotonic()
        gone(team, before)
        team.wait("modeldeployment", NAME, served(1), 400, "the new version serves")
        print(f"recreate: the new version serves {time.monotonic() - began:.0f} s after it was asked for")
    assert max(counts) == 1
    # What comes meanwhile is held or told to come again; nothing that had begun is lost.
    assert [e for e in made.failed if not e.startswith(("429", "503"))] == []


def test_borrowing_costs_no_room_and_no_stream(team: Kube, deployment: Json, model: str) -> None:  # noqa: F811
    team.run("scale", f"modeldeployment/{NAME}", "--replicas=2")
    team.wait("modeldeployment", NAME, served(2), 240, "two replicas")
    before = names(pods(team, "serve"))
    rules = {"strategy": "borrowReplica", "steps": [50], "pauseSeconds": 10, "maxLatencyRatio": 20}
    with load(team, NAME, STREAMS, SHORT) as made, counted(team) as counts:
        another_version(team, model, 10, rollout=rules, replicas=2)
        team.wait("modeldeployment", NAME, holds("RolledOut"), 400, "the new version serves alone")
        gone(team, before)
        team.wait("modeldeployment", NAME, served(2), 240, "two replicas of it")
    assert max(counts) == 2
    assert made.failed == []
