"""`anneal policies` on real nodes: without an agent it says that nothing enforces NetworkPolicies, and leaves nothing."""

import json
import subprocess
import sys

import pytest
from tests.cluster.conftest import SYSTEM
from tests.cluster.kube import Kube

pytestmark = pytest.mark.cluster


def test_the_local_cluster_enforces_none_and_the_probe_says_so(operator: Kube) -> None:
    command = [sys.executable, "-m", "anneal_cli", "--namespace", SYSTEM, "policies", "--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    assert (done.returncode, json.loads(done.stdout or "{}")) == (1, {"policies": "ignored"}), done.stderr
    # On real nodes a pod's end takes a moment.
    operator.wait_gone("pods", "app.kubernetes.io/component in (policy-probe,policy-probe-target)", 60)
    assert operator.list("networkpolicies", "app.kubernetes.io/component=policy-probe-target") == []
