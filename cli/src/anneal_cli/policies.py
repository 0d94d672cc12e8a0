"""Whether the cluster enforces NetworkPolicies: two pods, a policy between them, and one that tries.

An API server takes any policy; only an agent on the nodes puts it into force. `anneal_operator.reach` is what the pods run.
"""

from anneal_cli.kubectl import Object
from anneal_operator import pods, reach
from anneal_runtime.errors import TryAgain

NAME = "anneal-policy-probe"
COMPONENT = "app.kubernetes.io/component"
DEADLINE = 600
"""Seconds after which the pods end, should nobody be left to remove them."""
SAID = {
    "enforced": "NetworkPolicies are enforced: a port that a policy denies could not be reached.",
    "ignored": "nothing enforces NetworkPolicies here: a port that a policy denies was reached all the same. "
    "They are words until the cluster's network plugin, or an agent beside it, enforces them.",
}


def target(image: str, pull_secrets: list[Object]) -> list[Object]:
    """Return the pod that listens, and the policy that lets one of its ports in."""
    port = {"protocol": "TCP", "port": reach.ALLOWED}
    rule = {
        "podSelector": {"matchLabels": _labels("policy-probe-target")},
        "policyTypes": ["Ingress"],
        "ingress": [{"ports": [port]}],
    }
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": NAME, "labels": _labels("policy-probe-target")},
        "spec": rule,
    }
    return [policy, _pod(NAME, "policy-probe-target", image, pull_secrets, "listen")]


def caller(image: str, pull_secrets: list[Object], address: str) -> Object:
    """Return the pod that tries both ports of the one at `address`."""
    return _pod(f"{NAME}-caller", "policy-probe", image, pull_secrets, "ask", address)


def verdict(told: list[Object]) -> str:
    """Return what the caller found: `enforced` or `ignored`.

    Raises:
        TryAgain: it could not say.
    """
    found = str(told[0]["policies"]) if told else "unknown"
    if found not in SAID:
        text = "not even the port that is let in was reached: another policy of the namespace, or the network; try another --namespace"
        raise TryAgain("Unreachable", text)
    return found


def _labels(component: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": "anneal", COMPONENT: component}


def _pod(name: str, component: str, image: str, pull_secrets: list[Object], *command: str) -> Object:
    container = {
        "name": "main",
        "image": image,
        "command": ["python3", "-m", "anneal_operator.reach", *command],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
        "securityContext": pods.container_security(),
    }
    spec = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": DEADLINE,
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "imagePullSecrets": pull_secrets,
        "securityContext": pods.pod_security(),
        "containers": [container],
    }
    metadata = {"name": name, "labels": _labels(component)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
