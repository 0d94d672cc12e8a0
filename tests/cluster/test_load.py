"""Streams under load while replicas come and go, a version is rolled out, gateways are rolled, and replicas are lost.

Eight clients without retries, whose answers take longer than preStop and readiness lag together. The lines that are printed are
those of the table in docs/reliability.md.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.cluster import witness
from tests.cluster.conftest import finetunejob, image, modeldeployment, upload
from tests.cluster.group import cluster
from tests.cluster.kube import Json, Kube, holds, idle
from tests.cluster.load import Load, load, shortest
from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.cluster
NAME = "busy"
STREAMS, TOKENS = 8, 4000
LAG = 12.0
"""Seconds: preStop (5) and two failed readiness probes (6), and a little."""
POSITIONS = 4096


@pytest.fixture(scope="module")
def model(operator: Kube, team: Kube, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model that goes on for ever: its rows are cut before they end."""
    folder = tmp_path_factory.mktemp("long")
    base = write_tiny_model(folder / "long")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"max_position_embeddings": POSITIONS}))
    turns = [{"role": "user", "content": "repeat"}, {"role": "assistant", "content": "abcdefgh" * 80}]
    rows = [
        [
            {"role": "user", "content": f"repeat {i} abcdef"},
            {**turns[1], "content": "abcdefgh"[i % 8 :] + "abcdefgh" * 80},
        ]
        for i in range(200)
    ]
    (folder / "long.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    upload(team, folder, ".")
    made = finetunejob(
        "endless",
        baseModel={"uri": "pvc://store/long"},
        tasks=[{"name": "letters", "data": {"uri": "pvc://store/long.jsonl"}}],
        workers={"nodes": 1},
    )
    team.apply(made, idle("client", image(operator, "serving")))
    done = team.wait("finetunejob", "endless", holds("Complete"), 420, "Complete")
    team.run("wait", "--for=condition=Ready", "--timeout=120s", "pod/client")
    return str(done["status"]["artifacts"]["merged"]["uri"])


def spec(model: str, **changes: object) -> Json:
    """Return the deployment under load: replicas on any node, two gateways, time enough to end streams."""
    limits = {"runtime": "openvino", "maxBatchSize": 8, "maxInputLength": 128, "maxSequenceLength": POSITIONS}
    made = modeldeployment(NAME, "")
    made["spec"] |= {
        "model": {"uri": model},
        "engine": limits,
        "accelerator": "cpu",
        "gate": {"maxLogitKL": 5, "maxPerplexityIncrease": 5},
        "drainSeconds": 300,
        "gateway": {"replicas": 2},
        "rollout": {"steps": [50], "pauseSeconds": 10, "maxLatencyRatio": 20},
        **changes,
    }
    return made


@pytest.fixture(scope="module")
def deployment(team: Kube, model: str) -> Json:
    """The deployment, serving."""
    team.apply(spec(model, replicas=1))
    return team.wait("modeldeployment", NAME, served(1), 300, "serving with two gateways")


def served(replicas: int) -> Callable[[Json], bool]:
    """Return a check that so many replicas serve, and no more."""

    def check(found: Json) -> bool:
        status = found.get("status", {})
        counts = status.get("readyReplicas", 0), status.get("replicas", 0)
        return holds("Ready")(found) and counts == (replicas, replicas)

    return check


@contextmanager
def busy(team: Kube, event: str, lost: bool = False) -> Iterator[Load]:
    """Keep the deployment busy around an event; then print what came of it, and judge it unless streams may be `lost`."""
    with load(team, NAME, STREAMS, TOKENS) as made:
        made.wait(STREAMS)
        began = time.time()
        yield made
        struck = made.running(began)
        seconds = time.time() - began
    length = shortest(struck)
    print(f"| {event} | {seconds:.0f} | {len(made.streams)} | {length:.0f} | {len(made.failed)} |")
    assert len(struck) >= STREAMS
    assert length > LAG
    assert lost or made.failed == []


def pods(team: Kube, stage: str) -> list[Json]:
    """Return the pods of the deployment that run and are not on their way out."""
    found = team.list("pods", f"anneal.dev/modeldeployment={NAME},anneal.dev/stage={stage}")
    return [p for p in found if "deletionTimestamp" not in p["metadata"]]


def scale(team: Kube, replicas: int) -> None:
    team.run("scale", f"modeldeployment/{NAME}", f"--replicas={replicas}")
    team.wait("modeldeployment", NAME, served(replicas), 240, f"{replicas} replicas")


def gone(team: Kube, names: set[str], seconds: float = 330) -> None:
    """Wait until pods have ended: their streams with them."""
    deadline = time.monotonic() + seconds
    while names & {p["metadata"]["name"] for p in team.list("pods")}:
        assert time.monotonic() < deadline, f"{names} still there\n{team.story()}"
        time.sleep(0.5)


def names(found: list[Json]) -> set[str]:
    return {str(pod["metadata"]["name"]) for pod in found}


def test_no_stream_is_lost_while_gateways_are_rolled(team: Kube, deployment: Json) -> None:
    before = names(pods(team, "gateway"))
    assert len(before) == 2
    with busy(team, "two gateways rolled"):
        team.run("rollout", "restart", f"deployment/{NAME}-gateway")
        team.run("rollout", "status", f"deployment/{NAME}-gateway", "--timeout=240s")
        gone(team, before)


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


def another_version(team: Kube, model: str, slots: int) -> None:
    """Change what a version is made of, and wait until the operator has seen it."""
    changed = spec(model, replicas=1)
    changed["spec"]["engine"]["maxBatchSize"] = slots
    team.apply(changed)
    team.wait("modeldeployment", NAME, lambda found: not holds("RolledOut")(found), 30, "a new version")


def stage(name: str) -> Callable[[Json], bool]:
    """Return a check that the newest version is at a stage."""
    return lambda found: bool(found["status"]["versions"][-1]["stage"] == name)


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
