"""Whoever looks at a job sees why: `kubectl describe` tells phase, conditions, attempts, and events in order.

Against a control plane of the test's own, where the test stands in for the Job controller and the kubelet.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import tools
from pydantic import BaseModel
from tests.cluster import kube
from tests.cluster.operator_process import OperatorProcess, own_operator
from tests.cluster.own_server import ADMIN, TEAM, Json, OwnServer, own_server, until
from tests.model_shapes import SMOLLM2

from anneal_api.base import ArtifactRef
from anneal_api.outcome import FineTuneInspection, FineTuneKeys, Outcome, TaskFacts, TrainResult

pytestmark = pytest.mark.cluster
JOBS = f"/apis/batch/v1/namespaces/{TEAM}/jobs"
TUNES = f"/apis/anneal.dev/v1alpha1/namespaces/{TEAM}/finetunejobs"
AT = "2026-01-01T00:00:00Z"


@pytest.fixture(scope="session", autouse=True)
def kubeconfig() -> None:
    """Takes the place of the local cluster's: this test needs none."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OwnServer]:
    with own_server(tmp_path) as running:
        yield running


@pytest.fixture
def operator(server: OwnServer, tmp_path: Path) -> Iterator[OperatorProcess]:
    with own_operator(server, tmp_path) as running:
        yield running


def ref(kind: str, letter: str) -> ArtifactRef:
    return ArtifactRef(uri=f"pvc://store/anneal/{TEAM}/{kind}/{letter * 64}", digest=f"sha256:{letter * 64}")


INSPECTION = FineTuneInspection(
    base_digest=f"sha256:{'0' * 64}",
    shape=SMOLLM2,
    tasks=[TaskFacts(name="a", digest=f"sha256:{'9' * 64}", rows=100)],
    keys=FineTuneKeys(prepare="1" * 64, train="2" * 64, evaluate="3" * 64, export="4" * 64),
    published={
        "prepare": ref("dataset", "1"),
        "evaluate": ref("evaluation", "3"),
        "export": ref("model", "4"),
    },
    scores=[],
)


def said(result: BaseModel) -> Outcome:
    return Outcome(
        verdict="Succeeded", reason="Succeeded", result=result.model_dump(mode="json", by_alias=True)
    )


def ends(server: OwnServer, part: str, outcome: Outcome, code: int = 0) -> None:
    """Wait for the Job of a stage, and end it with its only pod."""
    found: list[Json] = []

    def there() -> bool:
        found[:] = [j for j in (server.call("GET", JOBS) or {})["items"] if part in j["metadata"]["name"]]
        return bool(found)

    until(there, f"a Job {part}")
    job = found[0]
    _pod(server, job, outcome, code)
    types = ("FailureTarget", "Failed") if code else ("SuccessCriteriaMet", "Complete")
    held = [{"type": t, "status": "True", "lastTransitionTime": AT, "reason": "Test"} for t in types]
    job["status"] = {"conditions": held, "startTime": AT} | ({} if code else {"completionTime": AT})
    job["status"] |= {"failed": 1} if code else {"succeeded": 1}
    assert server.call("PUT", f"{JOBS}/{job['metadata']['name']}/status", job)


def _pod(server: OwnServer, job: Json, outcome: Outcome, code: int) -> None:
    pods, meta, template = f"/api/v1/namespaces/{TEAM}/pods", job["metadata"], job["spec"]["template"]
    owner = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": meta["name"],
        "uid": meta["uid"],
        "controller": True,
    }
    made = {**template["metadata"], "name": f"{meta['name']}-0", "ownerReferences": [owner]}
    spec = {**template["spec"], "nodeName": "node-1"}
    pod = server.call("POST", pods, {"apiVersion": "v1", "kind": "Pod", "metadata": made, "spec": spec})
    assert pod is not None
    ended = {"exitCode": code, "finishedAt": AT, "message": outcome.model_dump_json(by_alias=True)}
    name = pod["spec"]["containers"][0]["name"]
    state = {"name": name, "image": "i", "imageID": "i", "ready": False, "restartCount": 0}
    states = [{**state, "state": {"terminated": ended}}]
    pod["status"] = {"phase": "Failed" if code else "Succeeded", "containerStatuses": states}
    assert server.call("PUT", f"{pods}/{made['name']}/status", pod)


def describe(server: OwnServer, name: str) -> kube.Description:
    """Describe a FineTuneJob."""
    where = (f"--server=https://127.0.0.1:{server.port}", "--insecure-skip-tls-verify", f"--token={ADMIN}")
    command = (tools.binary("kubectl"), *where, "-n", TEAM, "describe", "finetunejob", name)
    done = subprocess.run([*map(str, command)], check=True, capture_output=True, text=True)
    return kube.described(done.stdout)


def test_a_run_of_two_attempts_can_be_read(server: OwnServer, operator: OperatorProcess) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    server.apply(f"/api/v1/namespaces/{TEAM}/serviceaccounts", account)
    spec = {
        "baseModel": {"uri": "pvc://models/base"},
        "tasks": [{"name": "a", "data": {"uri": "pvc://data/a.jsonl"}}],
        "workers": {"nodes": 1, "acceleratorsPerNode": 1, "accelerator": "a100-80g"},
        "output": {"uri": "pvc://store/anneal"},
    }
    meta = {"name": "tune", "namespace": TEAM}
    job = {"apiVersion": "anneal.dev/v1alpha1", "kind": "FineTuneJob", "metadata": meta, "spec": spec}
    assert server.call("POST", TUNES, job)
    ends(server, "-inspect-", said(INSPECTION))
    ends(
        server, "-train-1-", Outcome(verdict="Failed", reason="RankKilled", message="rank 0 was killed"), 137
    )
    trained = TrainResult(artifact=ref("adapter", "2"), step=100, best_step=90, validation_loss=0.5)
    ends(server, "-train-2-", said(trained))
    until(lambda: "Complete" in describe(server, "tune")[1], "the story is whole")
    told, events = describe(server, "tune")
    words = (
        "Phase: Complete",
        "Type: Training",
        "Type: Complete",
        "Cause: Crash",
        "rank 0 was killed",
        "Node: node-1",
    )
    assert [word for word in words if word not in told] == []
    # kubectl sorts by whole seconds; the wait before the second attempt lies between these and the end alone.
    assert max(events.index("Inspected"), events.index("AttemptEnded")) < events.index("Complete")
    assert events.count("Starting") == 2
