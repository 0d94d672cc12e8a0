"""What happens around a training group while it trains: suspension, a full disk, nodes that fail again, no operator.

All of them come to the result of a quiet run.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cluster import settings
from tests.cluster import group, witness
from tests.cluster.group import SAVED_EVERY, cluster
from tests.cluster.kube import Json, Kube, condition, holds

pytestmark = [pytest.mark.cluster, pytest.mark.full]
TOLERANCE = 0.02
"""Of the last validation loss after a group of another size: the same rows, summed up in another order."""
TAKEOVER = 23.0
LOST = {"NodeLost", "PeerLost"}
"""What a group says whose node is gone: peers may notice before the cluster does, and be restarted elsewhere."""


@pytest.fixture(scope="module")
def quiet(team: Kube) -> Callable[[], tuple[str, str]]:
    """A run to which nothing happens, beside the first of the others."""
    return group.quiet(team)


def test_a_control_plane_that_restarts_changes_nothing(
    team: Kube, quiet: Callable[[], tuple[str, str]]
) -> None:
    team.apply(group.job("control-plane"))
    with group.observed(team, "control-plane") as seen:
        seen.wait(SAVED_EVERY + 3, SAVED_EVERY)
        began = time.time()
        cluster("restart-control-plane")
        back = time.time()
        assert group.result(team, "control-plane") == quiet()
        # The stream of the log ended with the API server; the log itself has every step once.
        steps = witness.heard(team, seen.pods[0])
    meanwhile = sum(began < step.at < back for step in steps)
    print(f"control plane back after {back - began:.1f} s, {meanwhile} steps meanwhile")
    assert [step.number for step in steps] == list(range(1, group.STEPS + 1))
    (only,) = team.get("finetunejob", "control-plane")["status"]["attempts"]
    assert only["reason"] == "Succeeded"


def test_a_suspended_run_goes_on_to_the_same_end(team: Kube, quiet: Callable[[], tuple[str, str]]) -> None:
    team.apply(group.job("suspended"))
    with group.observed(team, "suspended") as seen:
        seen.wait(SAVED_EVERY + 3, SAVED_EVERY)
        moment = time.time()
        team.patch("finetunejob", "suspended", {"spec": {"suspend": True}})
        team.wait_gone("pods", "anneal.dev/finetunejob=suspended,anneal.dev/stage=train", 60)
        print(f"suspended: all pods gone after {time.time() - moment:.1f} s")
        team.patch("finetunejob", "suspended", {"spec": {"suspend": False}})
        assert group.result(team, "suspended") == quiet()
        times = group.times(seen, moment)
    print(f"\n{times.row('suspended', 'Suspended')}")
    assert times.lost == 0  # what was done is saved first
    assert team.get("finetunejob", "suspended")["status"].get("restarts", 0) == 0


@pytest.fixture
def small(team: Kube) -> Iterator[Path]:
    """The claim `small` on a disk of its own of 16 MiB."""
    disk = settings.STATE / "small-disk"
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=0777", "anneal-small", disk], check=True)
    team.apply(*_on(disk, team.namespace))
    yield disk
    team.run("delete", "finetunejob", "full", "--ignore-not-found")
    team.run("delete", "pvc/small", f"pv/{team.namespace}")
    # Its folder is the cluster's, which takes it along: a node's own mounts may hold it for a while.
    subprocess.run(["umount", "--lazy", disk], check=True)


def _on(disk: Path, namespace: str) -> list[Json]:
    size = {"storage": "16Mi"}
    volume = {
        "capacity": size,
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "",
        "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": str(disk)},
    }
    claim = {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": size},
        "storageClassName": "",
        "volumeName": namespace,
    }
    return [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": namespace}, "spec": volume},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "small"}, "spec": claim},
    ]


def fill(disk: Path) -> Path:
    """Leave no byte on a disk."""
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(2**16))
    return filler


def attempts(found: Json) -> list[Json]:
    return list(found.get("status", {}).get("attempts", []))


def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_room(
    team: Kube, small: Path, quiet: Callable[[], tuple[str, str]]
) -> None:
    team.apply(group.job("full", "small"))
    with group.observed(team, "full") as seen:
        seen.wait(SAVED_EVERY + 3, SAVED_EVERY)
        moment, filler = time.time(), fill(small)
        told = team.wait(
            "finetunejob", "full", lambda job: bool(attempts(job)[0].get("ended")), 120, "an end"
        )
        filler.unlink()
        expected = quiet()
        assert group.result(team, "full") == expected
        times = group.times(seen, moment)
    first = attempts(told)[0]
    print(f"\n{times.row('disk-full', first['cause'])}")
    assert first["cause"] == "Storage"
    assert "No space left on device" in first["message"]
    assert "pvc://small/full" in first["message"]
    assert condition(told, "Training")["status"] == "False"
    assert "No space left on device" in condition(told, "Training")["message"]
    assert team.get("finetunejob", "full")["status"].get("restarts", 0) == 0
    assert times.lost <= SAVED_EVERY + 2  # the save that fails is heard of a step or two later


def trains(number: int, nodes: int) -> Callable[[Json], bool]:
    """Return a check that an attempt of so many nodes has made a step."""
    return lambda job: any(
        a["number"] >= number and a["nodes"] == nodes and a.get("training") for a in attempts(job)
    )


def test_a_group_goes_on_with_fewer_nodes_and_grows_back(
    team: Kube, quiet: Callable[[], tuple[str, str]]
) -> None:
    team.apply(group.job("shrunk", nodes=3, minNodes=2, startTimeoutSeconds=60))
    with group.observed(team, "shrunk") as seen:
        seen.wait(SAVED_EVERY + 3, SAVED_EVERY)
        lost, moment = seen.pods[-1]["spec"]["nodeName"], time.time()
        cluster("node-stop", lost)
        try:
            team.wait("finetunejob", "shrunk", trains(2, 2), 400, "a smaller group that trains")
            print(f"\nsmaller group trains after {time.time() - moment:.1f} s")
        finally:
            cluster("node-start", lost)
    assert condition(team.get("finetunejob", "shrunk"), "FullSize")["reason"] == "Shrunk"
    os.kill(witness.processes(group.pods(team, "shrunk")[-1], group.RANK)[0], signal.SIGKILL)
    done = team.wait("finetunejob", "shrunk", holds("Complete"), 600, "Complete")
    *gone, waited, smaller, grown = attempts(done)
    assert [a["nodes"] for a in (waited, smaller, grown)] == [3, 2, 3]
    assert [a["cause"] for a in (waited, smaller)] == ["StartTimeout", "Crash"]
    # Peers of a lost node may say so long before the cluster does: the node is then tried once more.
    assert 1 <= len(gone) <= 2
    assert {a["cause"] for a in gone} <= LOST
    assert condition(done, "FullSize")["reason"] == "Grown"
    loss, expected = float(done["status"]["progress"]["validationLoss"]), float(quiet()[0])
    print(f"\nlast validation loss {loss}, of a quiet run {expected}")
    assert abs(loss - expected) <= TOLERANCE


def struck(team: Kube, name: str, node: str) -> None:
    """Stop a node under the newest group of a job, until the next group trains."""
    cluster("node-stop", node)
    try:
        # Not the group of before, whose processes are gone.
        with group.observed(team, name) as seen:
            seen.wait(1)
    finally:
        cluster("node-start", node)


def nodes_of(team: Kube, name: str) -> list[str]:
    return [pod["spec"]["nodeName"] for pod in group.pods(team, name)]


def test_a_node_that_failed_twice_is_left_out_and_named(team: Kube) -> None:
    team.apply(group.job("suspect", steps=3 * group.STEPS))
    with group.observed(team, "suspect") as seen:
        seen.wait(SAVED_EVERY + 3, SAVED_EVERY)
    bad = nodes_of(team, "suspect")[-1]
    struck(team, "suspect", bad)
    assert bad not in nodes_of(team, "suspect")
    # Another one goes: the group needs the first again, which has come back.
    struck(team, "suspect", nodes_of(team, "suspect")[-1])
    assert bad in nodes_of(team, "suspect")
    struck(team, "suspect", bad)
    assert bad not in nodes_of(team, "suspect")
    done = team.wait("finetunejob", "suspect", holds("Complete"), 600, "Complete")
    told = [e["message"] for e in team.list("events") if e["reason"] == "NodeSuspect"]
    assert len(told) == 1
    assert f"node {bad} has ended 2 attempts" in told[0]
    *gone, last = attempts(done)
    assert len(gone) == 3
    assert {a["cause"] for a in gone} <= LOST
    assert last["cause"] == ""
    assert {n["name"]: n["failures"] for n in done["status"]["avoided"]}[bad] == 2


def leader(operator: Kube) -> Json:
    """Return the pod of the operator that leads."""
    holder = operator.get("lease", "anneal-operator")["spec"]["holderIdentity"]
    return operator.get("pod", holder.rpartition("_")[0])


def killed(operator: Kube, pod: Json, watch: witness.Watch) -> float:
    """Kill the operator's process; return the seconds until somebody leads, which its own next process may do."""
    moment = time.time()
    os.kill(witness.processes(pod, b"anneal_operator")[0], signal.SIGKILL)
    return _renewed(watch, moment + 0.2) - moment


def removed(operator: Kube, pod: Json, watch: witness.Watch) -> float:
    """Take the leader away for good, so that it can't give the Lease back; return the seconds until the other leads."""
    os.kill(witness.processes(pod, b"anneal_operator")[0], signal.SIGSTOP)
    moment = time.time()
    operator.run("delete", "pod", pod["metadata"]["name"], "--force", "--grace-period=0", "--wait=false")
    return _renewed(watch, moment + 0.2) - moment


def _renewed(watch: witness.Watch, since: float) -> float:
    deadline = time.monotonic() + 2 * TAKEOVER
    while (at := watch.first(lambda event: True, since)) is None:
        assert time.monotonic() < deadline, "nobody takes over"
        time.sleep(0.1)
    return at


def test_a_run_does_not_notice_that_its_operators_die(
    operator: Kube, team: Kube, quiet: Callable[[], tuple[str, str]]
) -> None:
    operator.run("rollout", "status", "deployment/anneal-operator", "--timeout=120s")
    watch = witness.Watch(f"/apis/coordination.k8s.io/v1/namespaces/{operator.namespace}/leases")
    team.apply(group.job("operators"))
    try:
        with group.observed(team, "operators") as seen:
            seen.wait(SAVED_EVERY + 3, SAVED_EVERY)
            first = leader(operator)
            again = killed(operator, first, watch)
            other = removed(operator, leader(operator), watch)
            assert leader(operator)["metadata"]["name"] != first["metadata"]["name"]
    finally:
        watch.close()
    print(f"\nleader killed: led again after {again:.1f} s; taken away: another after {other:.1f} s")
    assert group.result(team, "operators") == quiet()
    assert max(again, other) <= TAKEOVER + 2
    (only,) = attempts(team.get("finetunejob", "operators"))
    assert only["reason"] == "Succeeded"
