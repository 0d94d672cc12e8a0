"""Who may talk to whom, by the policies as helm renders them: judged as an agent would, connection by connection."""

from functools import cache
from typing import Any

import pytest
from rendered import of, render

from anneal_cli.reader import LABELS

OPERATOR = {
    "app.kubernetes.io/name": "anneal",
    "app.kubernetes.io/component": "operator",
    "app.kubernetes.io/instance": "anneal",
}
Pod = tuple[str, dict[str, str]]
"""Namespace and labels."""


def stage(name: str, namespace: str = "team") -> Pod:
    return namespace, {"anneal.dev/stage": name}


PODS: dict[str, Pod] = {
    "operator": ("system", OPERATOR),
    "prometheus": ("monitoring", {"app": "prometheus"}),
    "client": ("apps", {"app": "editor"}),
    "neighbour": ("team", {"app": "notebook"}),
    **{name: stage(name) for name in ("train", "serve", "gateway", "inspect", "export", "delete")},
    "reader": ("team", LABELS),
    "test": ("system", OPERATOR | {"app.kubernetes.io/component": "test"}),
    "other's train": stage("train", "other"),
    "other's gateway": stage("gateway", "other"),
}


@cache
def documents(*arguments: str) -> list[dict[str, Any]]:
    """Return the chart with policies, for two namespaces; rendered once for all who ask the same."""
    settings = ["--set", "watchNamespaces={team,other}", "--set", "networkPolicies.enabled=true", *arguments]
    return render("--namespace", "system", *settings)


def policies(*arguments: str) -> list[dict[str, Any]]:
    return of("NetworkPolicy", documents(*arguments))


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Say whether a label selector holds: matchLabels, and the operators In and Exists."""
    for rule in selector.get("matchExpressions", []):
        if rule["key"] not in labels or (
            rule["operator"] == "In" and labels[rule["key"]] not in rule["values"]
        ):
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def peer(rule: dict[str, Any], pod: Pod, home: str) -> bool:
    """Say whether a NetworkPolicyPeer of a policy in namespace `home` means the pod."""
    namespace, labels = pod
    if "namespaceSelector" not in rule:
        return namespace == home and selects(rule["podSelector"], labels)
    named = selects(rule["namespaceSelector"], {"kubernetes.io/metadata.name": namespace})
    return named and selects(rule.get("podSelector", {}), labels)


def lets(direction: str, pod: Pod, other: Pod, port: int, *arguments: str) -> bool:
    """Say whether the policies of `pod` let a TCP connection in from, or out to, `other`."""
    far = {"Ingress": "from", "Egress": "to"}[direction]
    own = [p for p in policies(*arguments) if p["metadata"]["namespace"] == pod[0]]
    own = [
        p for p in own if selects(p["spec"]["podSelector"], pod[1]) and direction in p["spec"]["policyTypes"]
    ]
    if not own:
        return True
    return any(
        (far not in rule or any(peer(each, other, pod[0]) for each in rule[far]))
        and ("ports" not in rule or any(p["port"] == port and p["protocol"] == "TCP" for p in rule["ports"]))
        for policy in own
        for rule in policy["spec"].get(direction.lower(), [])
    )


def connects(source: str, target: str, port: int, *arguments: str) -> bool:
    one, other = PODS[source], PODS[target]
    return lets("Egress", one, other, port, *arguments) and lets("Ingress", other, one, port, *arguments)


NEEDED = [
    ("operator", "train", 9400),
    ("operator", "serve", 8002),
    ("operator", "gateway", 8080),
    ("train", "train", 29400),
    ("train", "train", 41234),
    ("gateway", "serve", 8001),
    ("gateway", "serve", 8002),
    ("client", "gateway", 8080),
    ("neighbour", "gateway", 8080),
    ("prometheus", "operator", 8081),
    ("prometheus", "train", 9400),
    ("prometheus", "serve", 8002),
    ("prometheus", "gateway", 8080),
]
FORBIDDEN = [
    ("client", "operator", 8081),
    ("client", "train", 9400),
    ("neighbour", "train", 29400),
    ("neighbour", "serve", 8001),
    ("client", "serve", 8001),
    ("other's train", "train", 29400),
    ("train", "other's train", 29400),
    ("other's gateway", "serve", 8001),
    ("gateway", "train", 29400),
    ("train", "serve", 8001),
    ("inspect", "serve", 8001),
    ("export", "train", 29400),
    ("neighbour", "inspect", 8080),
    ("prometheus", "train", 29400),
    ("operator", "inspect", 9400),
    ("reader", "train", 9400),
    ("neighbour", "reader", 8080),
]


@pytest.mark.parametrize(("source", "target", "port"), NEEDED)
def test_what_has_to_talk_may(source: str, target: str, port: int) -> None:
    assert connects(source, target, port)


@pytest.mark.parametrize(("source", "target", "port"), FORBIDDEN)
def test_nothing_else_may(source: str, target: str, port: int) -> None:
    assert not connects(source, target, port)


@pytest.mark.parametrize("pod", ["operator", "train", "serve", "gateway", "inspect", "delete", "reader"])
def test_everything_reaches_stores_or_the_api_server_and_names(pod: str) -> None:
    far = ("internet", {})
    assert lets("Egress", PODS[pod], far, 443)
    assert lets("Egress", PODS[pod], far, 53)
    assert not lets("Egress", PODS[pod], far, 22)


def test_only_those_who_may_use_the_api_server_reach_its_own_port() -> None:
    reach = {
        name
        for name, pod in PODS.items()
        if pod[0] in ("system", "team") and lets("Egress", pod, ("x", {}), 6443)
    }
    assert reach == {"operator", "gateway", "neighbour", "test"}


def test_clients_can_be_named() -> None:
    named = "networkPolicies.clients[0].namespaceSelector.matchLabels.kubernetes\\.io/metadata\\.name=apps"
    assert connects("client", "gateway", 8080, "--set", named)
    assert not connects("neighbour", "gateway", 8080, "--set", named)
    for own in ("operator", "test"):
        assert connects(own, "gateway", 8080, "--set", named)


def test_without_the_flag_there_is_none() -> None:
    assert policies("--set", "networkPolicies.enabled=false") == []
