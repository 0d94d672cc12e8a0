"""Streams under load while replicas come and go, a version is rolled out, gateways are rolled, and replicas are lost."""

import os
import signal
import time
from collections.abc import Iterator

import pytest
from tests.cluster import scaling, witness
from tests.cluster.endless import (
    NAME,
    SHORT,
    STREAMS,
    another_version,
    busy,
    gone,
    names,
    pods,
    scale,
    served,
    spec,
    stage,
    train,
)
from tests.cluster.group import cluster
from tests.cluster.kube import Json, Kube, holds
from tests.cluster.load import Load, load

pytestmark = pytest.mark.cluster
DECIDED_SECONDS = 10


@pytest.fixture(scope="module")
def model(operator: Kube, team: Kube, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URI of a tiny model that goes on for ever."""
    return train(operator, team, tmp_path_factory.mktemp("long"))


@pytest.fixture(scope="module")
def deployment(team: Kube, model: str) -> Json:
    """The deployment, serving."""
    team.apply(spec(model, replicas=1))
    return team.wait("modeldeployment", NAME, served(1), 300, "serving with two gateways")


def test_no_stream_is_lost_while_gateways_are_rolled(team: Kube, deployment: Json) -> None:
    before = names(pods(team, "gateway"))
    assert len(before) == 2
    with busy(team, "two gateways rolled"):
        team.run("rollout", "restart", f"deployment/{NAME}-gateway")
        team.run("rollout", "status", f"deployment/{NAME}-gateway", "--timeout=240s")
        gone(team, before)


@pytest.fixture
def autoscaled(team: Kube, deployment: Json, model: str) -> Iterator[None]:
    """The load decides about one replica or two; in the end there is one again."""
    before = names(pods(team, "serve"))
    team.apply(spec(model, autoscaling={"minReplicas": 1, "maxReplicas": 2}))
    team.wait(
        "modeldeployment",
        NAME,
        lambda d: served(1)(d) and bool(d["status"].get("load")),
        60,
        "a look at the load",
    )
    yield
    every = before | names(pods(team, "serve"))
    team.apply(spec(model, replicas=1))
    team.wait("modeldeployment", NAME, served(1), 240, "one replica again")
    gone(team, every - names(pods(team, "serve")))


@pytest.mark.full
def test_a_step_in_the_load_brings_a_second_replica(team: Kube, autoscaled: None) -> None:
    """The lines it prints are those of the table in docs/reliability.md."""
    first, gateways = names(pods(team, "serve")), sorted(names(pods(team, "gateway")))
    with scaling.heard(team) as told:
        with load(team, NAME, 2 * STREAMS, SHORT) as made:
            team.wait("modeldeployment", NAME, served(2), 240, "two replicas")
            (pod,) = (each for each in pods(team, "serve") if each["metadata"]["name"] not in first)
            token = scaling.answered(team, gateways, f"{pod['status']['podIP']}:8001")
        loaded = scaling.loaded_at(team.run("logs", "--timestamps", pod["metadata"]["name"]))
        found = scaling.moments(told, pod, made.began, 2, loaded, token)
    print("\n".join(scaling.rows(found)))
    assert found[1] - found[0] < DECIDED_SECONDS
    assert made.failed == []


@pytest.mark.full
def test_no_stream_is_lost_while_replicas_come_and_go(team: Kube, deployment: Json) -> None:
    with busy(team, "scaled 1 -> 3 -> 1"):
        scale(team, 3)
        every = names(pods(team, "serve"))
        scale(team, 1)
        gone(team, every - names(pods(team, "serve")))


@pytest.mark.full
def test_no_stream_is_lost_while_a_version_is_rolled_out(team: Kube, deployment: Json, model: str) -> None:
    before = names(pods(team, "serve"))
    with busy(team, "a version rolled out (50%, then all)"):
        another_version(team, model, 9)
        team.wait("modeldeployment", NAME, holds("RolledOut"), 400, "the new version serves alone")
        gone(team, before)


@pytest.mark.full
def test_no_stream_is_lost_when_a_rollout_is_taken_back_by_hand(
    team: Kube, deployment: Json, model: str
) -> None:
    before = names(pods(team, "serve"))
    with busy(team, "a rollout taken back by hand at 50%"):
        another_version(team, model, 10)
        found = team.wait("modeldeployment", NAME, stage("Canary"), 300, "the new version has its share")
        began = time.time()
        run = found["status"]["versions"][-1]["run"]
        team.run("annotate", f"modeldeployment/{NAME}", f"anneal.dev/rollback={run}")
        team.wait("modeldeployment", NAME, stage("Draining"), 30, "the old version has all again")
        print(f"all requests at the old version after {time.time() - began:.1f} s")
        gone(team, names(pods(team, "serve")) - before)


@pytest.mark.full
@pytest.mark.parametrize("process", ["bin/tritonserver", "triton_python_backend_stub"])
def test_a_killed_replica_costs_its_own_streams_and_no_others(
    team: Kube, deployment: Json, process: str
) -> None:
    scale(team, 3)
    with busy(team, "a replica killed (three serve)", lost=True) as made:
        victim = pods(team, "serve")[0]
        os.kill(witness.processes(victim, process.encode())[0], signal.SIGKILL)
        time.sleep(20)  # the time in which what is sent to the dead would fail
    judge_lost(made)
    team.wait("modeldeployment", NAME, served(3), 240, "three again")


def judge_lost(made: Load) -> None:
    """Some streams were on the replica that was lost, not all; each was told so, and nothing else failed."""
    assert 0 < len(made.failed) < STREAMS, made.failed
    assert all(error.startswith("event: the replica was lost while answering") for error in made.failed), (
        made.failed
    )


@pytest.fixture
def lonely(team: Kube, deployment: Json) -> Iterator[str]:
    """A node with a replica, without a gateway, the operator or the client; powered on again in the end."""
    scale(team, 2)
    every = {str(node["metadata"]["name"]) for node in team.list("nodes")}
    taken = {p["spec"]["nodeName"] for p in pods(team, "gateway")} | {"serve-0"}
    node = sorted(every - taken)[0]
    for other in every - {node}:
        team.run("cordon", other)
    try:
        scale(team, 3)
    finally:
        for other in every - {node}:
            team.run("uncordon", other)
    yield node
    cluster("node-start", node)


@pytest.mark.full
def test_a_lost_node_costs_the_streams_of_its_replicas_and_no_others(team: Kube, lonely: str) -> None:
    with busy(team, "a node with a replica lost (three serve)", lost=True) as made:
        cluster("node-stop", lonely)
        time.sleep(40)  # NotReady after 16 s, and pods sent to it until then
    judge_lost(made)
