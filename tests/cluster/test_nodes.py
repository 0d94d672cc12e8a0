"""The local cluster itself: what every other cluster test takes for granted."""

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.cluster
ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMESPACE = "test-nodes"
VICTIM = "train-1"
ACCELERATORS = {"training": "8", "serving": "4"}


def cluster(*arguments: str) -> str:
    """The cluster's own command."""
    command = [sys.executable, "-m", "cluster", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def kubectl(*arguments: str, text: str | None = None) -> str:
    """kubectl as administrator, from the cache's folder of tools."""
    kubeconfig = pathlib.Path(os.environ.get("KUBECONFIG") or cluster("kubeconfig"))
    if not kubeconfig.exists():
        pytest.skip("the local cluster is not up: make cluster")
    program = pathlib.Path(cluster("kubeconfig")).parent / "bin" / "kubectl"
    command = [str(program), "--kubeconfig", str(kubeconfig), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, input=text).stdout


def get(*arguments: str) -> Any:
    """An object or a list."""
    return json.loads(kubectl("get", *arguments, "-o", "json"))


def ready(node: str) -> str:
    """The node's Ready condition: True, False or Unknown."""
    conditions = get("node", node)["status"]["conditions"]
    return next(str(c["status"]) for c in conditions if c["type"] == "Ready")


def wait_ready(node: str, wanted: str, seconds: float) -> float:
    """Wait for a Ready condition; returns how long it took."""
    started = time.monotonic()
    while ready(node) != wanted:
        assert time.monotonic() - started < seconds, f"{node} is {ready(node)}, not {wanted}"
        time.sleep(0.3)
    return time.monotonic() - started


def claim(name: str, mode: str) -> dict[str, Any]:
    spec = {"accessModes": [mode], "resources": {"requests": {"storage": "1Mi"}}}
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def probe(image: str) -> dict[str, Any]:
    """On every node: write a file with the node's name to the shared claim, then serve the folder."""
    container = {
        "name": "probe",
        "image": image,
        "command": ["sh", "-c", "touch /data/$NODE && cd /data && exec python3 -m http.server 8080"],
        "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "readinessProbe": {"httpGet": {"port": 8080}, "periodSeconds": 1},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    pod = {
        "terminationGracePeriodSeconds": 0,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "shared"}}],
    }
    labels = {"app": "probe"}
    template = {"metadata": {"labels": labels}, "spec": pod}
    spec = {"selector": {"matchLabels": labels}, "template": template}
    metadata = {"name": "probe", "namespace": NAMESPACE}
    return {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata, "spec": spec}


def service() -> dict[str, Any]:
    spec = {"selector": {"app": "probe"}, "ports": [{"port": 80, "targetPort": 8080}]}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "probe", "namespace": NAMESPACE},
        "spec": spec,
    }


@pytest.fixture(scope="module")
def probes() -> Iterator[list[dict[str, Any]]]:
    """A pod on each node that shares one volume with the others, under the restricted Pod Security level."""
    enforce = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": enforce}}
    base = get("configmap", "-n", "local-path-storage", "local-path-config")["data"]["helperPod.yaml"]
    image = json.loads(base)["spec"]["containers"][0]["image"]
    claims = [claim("shared", "ReadWriteMany"), claim("single", "ReadWriteOnce")]
    items = [namespace, *claims, service(), probe(image)]
    kubectl("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    try:
        kubectl("rollout", "status", "daemonset/probe", "-n", NAMESPACE, "--timeout=120s")
        yield get("pods", "-n", NAMESPACE, "-l", "app=probe")["items"]
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--wait=true", "--timeout=60s")


def test_nodes_have_their_pools_and_accelerators() -> None:
    found = {item["metadata"]["name"]: item for item in get("nodes")["items"]}
    assert {"train-0", "train-1", "serve-0"} <= set(found)
    for name, item in found.items():
        pool = item["metadata"]["labels"]["anneal.dev/pool"]
        assert name.startswith("train" if pool == "training" else "serve")
        assert item["status"]["allocatable"]["nvidia.com/gpu"] == ACCELERATORS[pool]
        assert not item["spec"].get("taints")


def test_a_pod_on_every_node_sees_what_the_others_wrote(probes: list[dict[str, Any]]) -> None:
    nodes = {pod["spec"]["nodeName"] for pod in probes}
    assert nodes == {item["metadata"]["name"] for item in get("nodes")["items"]}
    for pod in probes:
        seen = kubectl("exec", "-n", NAMESPACE, pod["metadata"]["name"], "--", "ls", "/data").split()
        assert set(seen) == nodes


def test_both_access_modes_bind(probes: list[dict[str, Any]]) -> None:
    claims = get("pvc", "-n", NAMESPACE)["items"]
    assert {item["metadata"]["name"]: item["status"]["phase"] for item in claims} == {
        "shared": "Bound",
        "single": "Bound",
    }


def test_a_service_is_reached_by_name_from_every_node(probes: list[dict[str, Any]]) -> None:
    url = f"http://probe.{NAMESPACE}.svc.cluster.local/"
    ask = (
        f"import urllib.request as r; [r.urlopen('{url}', timeout=5).read() for _ in range(12)]; print('ok')"
    )
    for pod in probes:
        answer = kubectl("exec", "-n", NAMESPACE, pod["metadata"]["name"], "--", "python3", "-c", ask)
        assert answer.strip() == "ok"


def test_a_pod_that_is_not_restricted_is_refused(probes: list[dict[str, Any]]) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "loose", "namespace": NAMESPACE},
        "spec": {"containers": [{"name": "loose", "image": "x"}]},
    }
    with pytest.raises(subprocess.CalledProcessError) as refusal:
        kubectl("create", "-f", "-", text=json.dumps(pod))
    assert "violates PodSecurity" in refusal.value.stderr


def test_a_node_without_power_is_noticed_and_comes_back() -> None:
    cluster("node-stop", VICTIM)
    try:
        assert wait_ready(VICTIM, "Unknown", 30) < 25
    finally:
        cluster("node-start", VICTIM)
    wait_ready(VICTIM, "True", 20)
    assert get("node", VICTIM)["status"]["allocatable"]["nvidia.com/gpu"] == "8"


def test_a_node_without_network_is_noticed_and_comes_back() -> None:
    cluster("partition", VICTIM)
    try:
        assert wait_ready(VICTIM, "Unknown", 30) < 25
    finally:
        cluster("heal", VICTIM)
    wait_ready(VICTIM, "True", 20)
