"""`helm test` of the installed release: a tiny model is trained and served, and nothing of it stays."""

import subprocess

import pytest
from tests.cluster.conftest import SYSTEM
from tests.cluster.kube import Kube

from anneal_operator import smoke

pytestmark = pytest.mark.cluster
POD = "anneal-operator-test"


def test_the_release_passes_its_own_test_and_nothing_stays(operator: Kube) -> None:
    command = ["helm", "test", "anneal", "-n", SYSTEM, "--timeout", "20m"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as test:
        said = _log(operator, test)
        told, _ = test.communicate()
    assert test.returncode == 0, f"{told}\n{said}"
    assert "\nanswer: " in said
    for kind in ("finetunejobs", "modeldeployments"):
        assert operator.list(kind) == []
    for kind in ("pods", "jobs", "deployments", "configmaps", "services"):
        operator.wait_gone(kind, f"anneal.dev/finetunejob={smoke.NAME}", 120)
        operator.wait_gone(kind, f"anneal.dev/modeldeployment={smoke.NAME}", 120)
    names = operator.run("get", "pods,pvc,serviceaccounts,roles,rolebindings", "-o", "name").split()
    assert [name for name in names if POD in name] == []


def _log(operator: Kube, test: subprocess.Popen[str]) -> str:
    """Return what the test's pod has printed: it goes with the test."""
    while test.poll() is None:
        found = operator.list("pods", "app.kubernetes.io/component=test")
        if any(p["metadata"]["name"] == POD and p["status"]["phase"] == "Running" for p in found):
            return operator.run("logs", "-f", POD)
        try:
            test.wait(1)
        except subprocess.TimeoutExpired:
            continue
    return ""
