"""Faults of a running group on real nodes: it ends, goes on elsewhere, and comes to the very result of a quiet run.

Every run has a store of its own, or it would find the first one's adapter published. Times go into the report of
the test run as properties, and to its output.
"""

import calendar
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.cluster.conftest import finetunejob
from tests.cluster.kube import Json, Kube, holds

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]
SAVED_EVERY = 20
SIGNAL = """
import os, pathlib, sys, time
ranks = [int(p.name) for p in pathlib.Path("/proc").iterdir() if p.name.isdigit()
         and b"anneal_trainers\\0rank" in (p / "cmdline").read_bytes()]
os.kill(min(ranks), int(sys.argv[1]))
print(time.time())
"""
SIGKILL, SIGSTOP = 9, 19


def job(name: str) -> Json:
    """Return a run that is long enough to be caught in the middle."""
    made = finetunejob(name, output={"uri": f"pvc://store/{name}", "merge": False})
    made["spec"]["optimization"] |= {"maxSteps": 200, "seed": 21}
    made["spec"]["checkpoint"] = {"everySteps": SAVED_EVERY}
    return made


def result(team: Kube, name: str) -> tuple[str, list[Json]]:
    """Run to the end; return the last validation loss, and the digests of the adapter's weights."""
    done = team.wait("finetunejob", name, holds("Complete"), 900, "Complete")
    place = done["status"]["artifacts"]["adapter"]["uri"].replace("pvc://", "/mnt/anneal/")
    manifest = json.loads(team.run("exec", "loader", "--", "cat", f"{place}/manifest.json"))
    weights = [file for file in manifest["files"] if "adapter_model" in json.dumps(file)]
    assert weights
    return done["status"]["progress"]["validationLoss"], weights


@pytest.fixture(scope="module")
def quiet(team: Kube) -> tuple[str, list[Json]]:
    """What comes out when nothing happens."""
    team.apply(job("quiet"))
    return result(team, "quiet")


def pods(team: Kube, name: str) -> list[Json]:
    """Return the pods of the newest attempt, by rank."""
    found = team.list("pods", f"anneal.dev/finetunejob={name},anneal.dev/stage=train")
    attempt = max(int(pod["metadata"]["labels"]["anneal.dev/attempt"]) for pod in found)
    newest = [p for p in found if int(p["metadata"]["labels"]["anneal.dev/attempt"]) == attempt]
    return sorted(newest, key=lambda pod: str(pod["metadata"]["name"]))


def started(team: Kube, name: str) -> None:
    """Start a run and wait until something is saved and more is done."""
    team.apply(job(name))

    def trains(found: Json) -> bool:
        status = found.get("status", {})
        return bool(
            status.get("checkpoints", {}).get("latest", 0) > 0
            and status.get("progress", {}).get("step", 0) > SAVED_EVERY
        )

    team.wait("finetunejob", name, trains, 300, "a checkpoint and a step beyond it")


def victim(operator: Kube, team: Kube, name: str) -> Json:
    """Return a pod of the group whose node does not also run the operator."""
    mine = {pod["spec"]["nodeName"] for pod in operator.list("pods", "app.kubernetes.io/component=operator")}
    return next(pod for pod in reversed(pods(team, name)) if pod["spec"]["nodeName"] not in mine)


def cluster(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "cluster", *words], cwd=ROOT, check=True, capture_output=True)


def signalled(team: Kube, pod: Json, number: int) -> float:
    """Send a signal to the first rank of a pod; return when."""
    command = ("exec", pod["metadata"]["name"], "--", "python3", "-c", SIGNAL, str(number))
    return float(team.run(*command))


def deleted(team: Kube, pod: Json) -> float:
    moment = time.time()
    team.run("delete", "pod", pod["metadata"]["name"], "--wait=false")
    return moment


def stopped(team: Kube, pod: Json) -> float:
    moment = time.time()
    cluster("node-stop", pod["spec"]["nodeName"])
    return moment


def cut(team: Kube, pod: Json) -> float:
    moment = time.time()
    cluster("partition", pod["spec"]["nodeName"])
    time.sleep(60)  # the length of the cut, not a wait for something
    cluster("heal", pod["spec"]["nodeName"])
    return moment


def nothing(team: Kube, pod: Json) -> None:
    """Nothing to mend."""


def powered(team: Kube, pod: Json) -> None:
    cluster("node-start", pod["spec"]["nodeName"])


@dataclass(frozen=True)
class Fault:
    """What is done to a pod of the group, what the attempt must say of it, and how soon it must end."""

    strike: Callable[[Kube, Json], float]
    causes: tuple[str, ...]
    seconds: float
    mend: Callable[[Kube, Json], None] = nothing
    elsewhere: bool = False


FAULTS = {
    "rank-killed": Fault(lambda team, pod: signalled(team, pod, SIGKILL), ("Crash",), 10),
    "pod-deleted": Fault(deleted, ("Eviction",), 15),
    # A node is NotReady 16 s after its last word here; the group ends within 15 s of that.
    "node-stopped": Fault(stopped, ("NodeLost",), 31, powered, elsewhere=True),
    "link-cut": Fault(cut, ("NodeLost",), 31, elsewhere=True),
    "rank-frozen": Fault(lambda team, pod: signalled(team, pod, SIGSTOP), ("Hang",), 90, elsewhere=True),
}


@pytest.mark.parametrize(
    "name", ["rank-killed", *(pytest.param(n, marks=pytest.mark.full) for n in list(FAULTS)[1:])]
)
def test_a_struck_group_comes_to_the_same_end(
    operator: Kube,
    team: Kube,
    quiet: tuple[str, list[Json]],
    name: str,
    record_property: Callable[[str, object], None],
) -> None:
    fault = FAULTS[name]
    started(team, name)
    pod = victim(operator, team, name)
    moment = fault.strike(team, pod)
    try:
        assert result(team, name) == quiet
    finally:
        fault.mend(team, pod)
    first, second = team.get("finetunejob", name)["status"]["attempts"][:2]
    took = _epoch(first["ended"]) - moment
    for key, value in (("ended after", took), ("trained again after", first.get("recoverySeconds"))):
        record_property(key, value)
        print(f"{name}: {key} {value} s")
    assert first["cause"] in fault.causes, first
    assert took <= fault.seconds, first
    assert first.get("lostSteps", 0) <= SAVED_EVERY
    assert second["nodes"] == first["nodes"]
    if fault.elsewhere:
        assert first["node"] == pod["spec"]["nodeName"]
        assert pod["spec"]["nodeName"] not in {p["spec"]["nodeName"] for p in pods(team, name)}


@pytest.mark.full
def test_a_control_plane_that_restarts_changes_nothing(team: Kube, quiet: tuple[str, list[Json]]) -> None:
    started(team, "control-plane")
    cluster("restart-control-plane")
    assert result(team, "control-plane") == quiet
    (only,) = team.get("finetunejob", "control-plane")["status"]["attempts"]
    assert only["reason"] == "Succeeded"


def _epoch(stamp: str) -> float:
    return float(calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ")))
