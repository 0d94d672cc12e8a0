"""Pods, and the operator itself, are killed in the middle; the run ends the same and nothing is made twice."""

import collections
import json
import random
import subprocess
import threading
import time

import pytest
from tests.cluster.conftest import finetunejob
from tests.cluster.kube import Json, Kube, condition, holds

pytestmark = pytest.mark.cluster
OPERATOR = "app.kubernetes.io/component=operator"


def training(job: Json) -> bool:
    """Whether the first checkpoint is saved and training goes on."""
    return bool(job.get("status", {}).get("progress", {}).get("step", 0) >= 4)


def longer(name: str, seed: int) -> Json:
    """Return a run of enough steps to be caught in the middle; the seed keeps it from reusing another's work."""
    job = finetunejob(name)
    job["spec"]["optimization"] |= {"maxSteps": 200, "seed": seed}
    job["spec"]["checkpoint"] = {"everySteps": 20}
    return job


@pytest.mark.parametrize("seed", [7, *(pytest.param(s, marks=pytest.mark.full) for s in (8, 9, 10, 11))])
def test_the_operator_is_killed_again_and_again(operator: Kube, team: Kube, seed: int) -> None:
    """SIGKILL to the process itself, at random moments of the whole run."""
    name = f"killed-{seed}"
    done = threading.Event()

    def kill() -> None:
        moments = random.Random(seed)
        # Longer than a new leader waits for the Lease of a dead one, or nothing would ever be done.
        while not done.wait(moments.uniform(25, 40)):
            subprocess.run(["pkill", "-KILL", "-f", "python3 -m anneal_operator"], check=False)
            # A new pod at once, instead of the kubelet's growing back-off for a container that dies often.
            operator.run("delete", "pod", "-l", OPERATOR, "--force", "--grace-period=0", "--wait=false")

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        job = finetunejob(name)
        job["spec"]["optimization"]["seed"] = seed
        team.apply(job)
        found = team.wait("finetunejob", name, holds("Complete"), 480, "Complete")
    finally:
        done.set()
        killer.join()
    operator.run("rollout", "status", "deployment/anneal-operator", "--timeout=120s")
    jobs = team.list("jobs", f"anneal.dev/finetunejob={name}")
    stages = collections.Counter(j["metadata"]["labels"]["anneal.dev/stage"] for j in jobs)
    # The rows may have been prepared by an earlier test; everything of this run exists once.
    assert stages | {"prepare": 1} == {"inspect": 1, "prepare": 1, "train": 1, "evaluate": 1, "export": 1}
    assert found["status"].get("restarts", 0) == 0


@pytest.mark.full  # of this kind `make test` has a killed rank, in test_group_faults
def test_a_killed_worker_ends_the_group_and_the_next_attempt_goes_on(team: Kube) -> None:
    job = longer("worker", 12)
    team.apply(job)
    team.wait(
        "finetunejob",
        "worker",
        lambda j: j.get("status", {}).get("checkpoints", {}).get("latest", 0) > 0,
        300,
    )
    pods = team.list("pods", "anneal.dev/finetunejob=worker,anneal.dev/stage=train")
    team.run("delete", "pod", pods[-1]["metadata"]["name"], "--force", "--grace-period=0")
    done = team.wait("finetunejob", "worker", holds("Complete"), 480, "Complete")
    first, second = done["status"]["attempts"][:2]
    # Whichever is seen first: the deletion, which is nobody's fault, or the peer that lost a worker.
    assert first["cause"] in ("Eviction", "PeerLost")
    assert second["number"] == 2
    assert done["status"]["restarts"] == (first["cause"] == "PeerLost")
    said, events = team.describe("finetunejob", "worker", "Complete")
    told = ("Phase: Complete", "Type: Complete", f"Cause: {first['cause']}", "Lost Steps:", "Records: pvc://")
    assert [line for line in told if line not in said] == []
    # Those that seconds lie between: kubectl sorts by them.
    milestones = ("Inspected", "Training", "AttemptEnded", "Recovered", "Complete")
    assert sorted(milestones, key=events.index) == [*milestones]
    log = team.run("logs", "-l", "anneal.dev/finetunejob=worker,anneal.dev/attempt=2", "--tail=-1")
    steps = [json.loads(line)["step"] for line in log.splitlines() if line.startswith('{"step"')]
    assert (
        min(steps) > job["spec"]["checkpoint"]["everySteps"]
    )  # what the first attempt saved was not done again


def test_suspend_releases_everything_and_resume_goes_on(team: Kube) -> None:
    team.apply(longer("pause", 13))
    team.wait("finetunejob", "pause", training, 300, "a few steps")
    team.patch("finetunejob", "pause", {"spec": {"suspend": True}})
    paused = team.wait("finetunejob", "pause", holds("Suspended"), 90, "Suspended")
    team.wait_gone("pods", "anneal.dev/finetunejob=pause,anneal.dev/stage=train", 90)
    before = paused["status"]["progress"]["step"]
    time.sleep(3)
    assert not team.list("jobs", "anneal.dev/finetunejob=pause,anneal.dev/stage=train")
    team.patch("finetunejob", "pause", {"spec": {"suspend": False}})
    done = team.wait("finetunejob", "pause", holds("Complete"), 480, "Complete")
    assert done["status"].get("restarts", 0) == 0
    assert done["status"]["progress"]["step"] > before
    assert condition(done, "Suspended")["status"] == "False"
