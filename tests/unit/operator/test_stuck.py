"""Why pods do not start, and why they are out of memory: a reason, what is missing where, and what to do."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from views import NOW, exited, job, pod

from anneal_operator import outcomes, stuck

SCARCE = (
    "0/5 nodes are available: 1 node(s) had untolerated taint {team: a}, 2 Insufficient nvidia.com/gpu, 2 node(s) "
    "didn't match Pod's node affinity/selector. preemption: 0/5 nodes are available: 2 No preemption victims found, "
    "1 node(s) didn't match volume node affinity."
)


def pending(message: str) -> dict[str, Any]:
    held = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"phase": "Pending", "conditions": [held]}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {
        "phase": "Pending",
        "containerStatuses": [{"state": {"waiting": {"reason": reason, "message": message}}}],
    }


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (waiting("ImagePullBackOff", 'Back-off pulling image "r/a:1"'), "ImagePullFailed", ["r/a:1", "imagePullSecrets"]),
        (waiting("InvalidImageName"), "ImagePullFailed", ["InvalidImageName", "check the image's name"]),
        (waiting("CreateContainerConfigError", 'secret "keys" not found'), "SecretMissing", ["'keys'", "create it"]),
        (
            waiting("CreateContainerError", "no space left on device"),
            "ContainerNotStarting",
            ["no space left", "node-0", "kubectl describe pod"],
        ),
        (
            pending(SCARCE),
            "Unschedulable",
            ["Insufficient nvidia.com/gpu", "ask for less", "nodeSelector", "tolerate the taint"],
        ),
        (pending('persistentvolumeclaim "models" not found'), "ClaimMissing", ["'models'", "create it"]),
        (
            pending("pod has unbound immediate PersistentVolumeClaims. preemption: none"),
            "ClaimUnbound",
            ["kubectl describe pvc", "storageClassName"],
        ),
    ],
)  # fmt: skip
def test_a_pod_that_does_not_start_is_explained(
    status: dict[str, Any], reason: str, words: list[str]
) -> None:
    found = stuck.diagnose(job(pod(**status), failed=False), NOW)
    assert found is not None
    assert found.reason == reason
    assert [word for word in words if word not in found.message] == []


def test_what_preemption_could_not_do_is_no_advice() -> None:
    found = stuck.diagnose(job(pod(**pending(SCARCE)), failed=False), NOW)
    assert found is not None
    assert "can be used on other nodes only" not in found.message


def test_a_quota_is_named_with_what_it_holds() -> None:
    said = (
        'FailedCreate: Error creating: pods "p" is forbidden: exceeded quota: team, requested: '
        "requests.nvidia.com/gpu=8, used: requests.nvidia.com/gpu=16, limited: requests.nvidia.com/gpu=16"
    )
    held = replace(job(failed=False), warning=said)
    found = stuck.diagnose(held, NOW + timedelta(seconds=stuck.PATIENCE + 1))
    assert found is not None
    assert found.reason == "QuotaExceeded"
    assert "ResourceQuota team" in found.message
    assert "limited: requests.nvidia.com/gpu=16" in found.message
    assert "raise it" in found.message


def test_out_of_memory_says_where_and_what_to_do() -> None:
    found = outcomes.of_failure(job(exited(1, 137, reason="OOMKilled")))
    assert found.reason == "OOMKilled"
    for word in ("pod p-1", "node-1", "memory", "overlay.requests", "137"):
        assert word in found.message
