"""Two operators on the real API server: a frozen leader writes nothing when it wakes, and another takes over."""

import json
import subprocess
import time
from datetime import datetime
from pathlib import Path

import pytest
from cluster import settings
from tests.cluster import witness
from tests.cluster.conftest import finetunejob
from tests.cluster.kube import Json, Kube, holds

pytestmark = pytest.mark.cluster
LEASE = "anneal-operator"
WRITES = ("create", "update", "patch", "delete")
DURATION, TAKEOVER = 20.0, 23.0
AUDIT = Path(settings.LOGS) / "audit.log"


def lease(operator: Kube) -> Json:
    return dict(operator.get("lease", LEASE)["spec"])


def pod_of(holder: str) -> str:
    """Return the pod of a holder's identity: host name and process number."""
    return holder.rsplit("_", 1)[0]


def written_by(pod: str, since: float) -> list[str]:
    """Return the writes of a pod that the API server received after a moment, by its audit log."""
    found = []
    for line in AUDIT.read_text().splitlines():
        entry = json.loads(line)
        who = entry["user"].get("extra", {}).get("authentication.kubernetes.io/pod-name", [""])[0]
        received = datetime.fromisoformat(entry["requestReceivedTimestamp"]).timestamp()
        if who == pod and received > since and entry["verb"] in WRITES:
            found.append(f"{entry['verb']} {entry['requestURI']}")
    return found


@pytest.fixture
def frozen(operator: Kube, team: Kube) -> tuple[str, float, float]:
    """Freeze the leader while it works, until another leads; wake it; return its pod, and when both happened."""
    team.apply(finetunejob("frozen"))
    first = lease(operator)["holderIdentity"]
    process = witness.processes(operator.get("pod", pod_of(first)), b"anneal_operator")[0]
    subprocess.run(["kill", "-STOP", str(process)], check=True)
    at = time.time()
    try:
        while lease(operator)["holderIdentity"] == first:
            assert time.time() - at < 2 * TAKEOVER, "nobody takes over"
            time.sleep(0.2)
        taken = time.time()
    finally:
        subprocess.run(["kill", "-CONT", str(process)], check=False)
    return pod_of(first), at, taken


def test_a_leader_frozen_past_its_lease_writes_nothing_when_it_wakes(
    operator: Kube, team: Kube, frozen: tuple[str, float, float]
) -> None:
    pod, at, taken = frozen
    print(f"takeover after {taken - at:.1f} s")
    team.wait("finetunejob", "frozen", holds("Complete"), 480, "Complete")
    ended = [s for s in operator.get("pod", pod)["status"]["containerStatuses"] if s["restartCount"]]
    assert ended
    assert ended[0]["lastState"]["terminated"]["exitCode"] == 75
    # Its next process only looks at the Lease of the other.
    assert written_by(pod, at + DURATION) == []
    assert len(team.list("jobs", "anneal.dev/finetunejob=frozen,anneal.dev/stage=train")) == 1


def test_a_leader_that_ends_in_order_makes_nobody_wait(operator: Kube) -> None:
    first = lease(operator)["holderIdentity"]
    operator.run("delete", "pod", pod_of(first), "--wait=false")
    at = time.time()
    while lease(operator)["holderIdentity"] in (first, ""):
        assert time.time() - at < 2 * TAKEOVER, "nobody takes over"
        time.sleep(0.2)
    print(f"takeover after {time.time() - at:.1f} s")
    operator.run("rollout", "status", "deployment/anneal-operator", "--timeout=120s")
