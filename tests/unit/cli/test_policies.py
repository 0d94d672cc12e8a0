"""The probe of NetworkPolicies: a policy that means the pod it is made for, restricted pods, and an answer in words."""

import pytest

from anneal_cli import policies
from anneal_operator import reach
from anneal_runtime.errors import TryAgain


def test_the_policy_means_the_listener_alone_and_lets_one_port_in() -> None:
    policy, listener = policies.target("i", [])
    caller = policies.caller("i", [], "10.0.0.1")
    chosen = policy["spec"]["podSelector"]["matchLabels"]
    assert chosen == listener["metadata"]["labels"]
    assert chosen != caller["metadata"]["labels"]
    assert policy["spec"]["ingress"] == [{"ports": [{"protocol": "TCP", "port": reach.ALLOWED}]}]
    assert caller["spec"]["containers"][0]["command"][-2:] == ["ask", "10.0.0.1"]


def test_the_pods_are_restricted_and_end_by_themselves() -> None:
    for pod in (policies.target("i", [])[1], policies.caller("i", [{"name": "pull"}], "a")):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["activeDeadlineSeconds"] == policies.DEADLINE
    assert spec["imagePullSecrets"] == [{"name": "pull"}]


def test_a_probe_that_cannot_say_says_so() -> None:
    assert policies.verdict([{"policies": "ignored"}]) == "ignored"
    for told in ([], [{"policies": "unknown"}]):
        with pytest.raises(TryAgain, match="not even the port that is let in"):
            policies.verdict(told)
