"""`kubectl drain` of a node that trains, and of one that serves: the run goes on elsewhere, no stream is lost."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.cluster import group
from tests.cluster.endless import busy, gone, names, pods
from tests.cluster.group import SAVED_EVERY
from tests.cluster.kube import Json, Kube
from tests.cluster.test_load import deployment, lonely, model  # noqa: F401 (fixtures)

pytestmark = [pytest.mark.cluster, pytest.mark.full]


@contextmanager
def drained(node: str) -> Iterator[None]:
    """Take everything off a node as an administrator does, and give it back in the end."""
    emptied = ["--ignore-daemonsets", "--delete-emptydir-data", "--timeout=360s"]
    try:
        subprocess.run(["kubectl", "drain", node, *emptied], check=True, capture_output=True, text=True)
        yield
    finally:
        subprocess.run(["kubectl", "uncordon", node], check=True)


def test_a_run_saves_its_state_and_goes_on_without_the_node(team: Kube) -> None:
    team.apply(group.job("moved"))
    with group.observed(team, "moved") as seen:
        seen.wait(SAVED_EVERY + 3, SAVED_EVERY)
        node = seen.pods[-1]["spec"]["nodeName"]
        with drained(node):
            done = group.result(team, "moved")
    assert done[0]
    first, second = team.get("finetunejob", "moved")["status"]["attempts"]
    assert first["cause"] == "Eviction", first
    assert int(first.get("lostSteps", 0)) == 0, first
    assert second["nodes"] == first["nodes"]
    assert node not in {pod["spec"]["nodeName"] for pod in group.pods(team, "moved")}


def test_no_stream_is_lost_when_the_node_of_a_replica_is_drained(
    team: Kube,
    deployment: Json,  # noqa: F811
    lonely: str,  # noqa: F811
) -> None:
    leaving = {p["metadata"]["name"] for p in pods(team, "serve") if p["spec"]["nodeName"] == lonely}
    assert leaving
    with busy(team, "the node of a replica drained (three serve)"), drained(lonely):
        gone(team, leaving)
    assert not leaving & names(pods(team, "serve"))
