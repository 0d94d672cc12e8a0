"""The samples as a real API server takes them. KEDA's and the Gateway API's kinds are not in the local cluster.

test_others_kinds.py has both on an API server of its own.
"""

from pathlib import Path

import pytest
from tests.cluster.kube import Kube

pytestmark = pytest.mark.cluster
SAMPLES = sorted((Path(__file__).parents[2] / "manifests" / "samples").glob("*.yaml"))
ELSEWHERE = ("autoscale-keda", "expose-route")


@pytest.mark.parametrize(
    "sample", [path for path in SAMPLES if path.stem not in ELSEWHERE], ids=lambda path: path.stem
)
def test_a_sample_is_accepted(operator: Kube, sample: Path) -> None:
    assert "server dry run" in Kube("default").run("apply", "--dry-run=server", "-f", str(sample))


@pytest.mark.parametrize(
    ("rollout", "complaint"),
    [
        ("{ steps: [50, 10] }", "steps must not descend"),
        ("{ strategy: recreate, steps: [10] }", "recreate takes no steps"),
    ],
)
def test_a_rollout_that_makes_no_sense_is_refused(operator: Kube, rollout: str, complaint: str) -> None:
    wrong = f"""
apiVersion: anneal.dev/v1alpha1
kind: ModelDeployment
metadata: {{ name: wrong }}
spec: {{ model: {{ uri: "pvc://store/model" }}, rollout: {rollout} }}
"""
    with pytest.raises(RuntimeError, match=complaint):
        Kube("default").run("apply", "--dry-run=server", "-f", "-", stdin=wrong)
