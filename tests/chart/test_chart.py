"""The chart as helm renders it: rights, security, schema, CRDs."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).parents[2] / "charts" / "anneal"


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["helm", "template", "anneal", str(CHART), "--kube-version", "1.34.4", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def render(*arguments: str) -> list[dict[str, Any]]:
    done = helm(*arguments)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def of(kind: str, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [document for document in documents if document["kind"] == kind]


def test_no_rule_has_a_wildcard_or_a_secret() -> None:
    for role in of("ClusterRole", render()) + of("Role", render("--set", "watchNamespaces={a}")):
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            assert "secrets" not in rule["resources"]
            assert "pods/exec" not in rule["resources"]


def test_watching_namespaces_takes_no_cluster_wide_right() -> None:
    documents = render("--set", "watchNamespaces={a,b}")
    assert not of("ClusterRole", documents)
    assert not of("ClusterRoleBinding", documents)
    assert [r["metadata"]["namespace"] for r in of("Role", documents)][:2] == ["a", "b"]


def test_nodes_are_read_in_cluster_scope_alone() -> None:
    def reads_nodes(role: dict[str, Any]) -> bool:
        return any("nodes" in rule["resources"] for rule in role["rules"])

    assert [reads_nodes(role) for role in of("ClusterRole", render())] == [True]
    assert not any(reads_nodes(r) for r in of("Role", render("--set", "watchNamespaces={a,b}")))


def test_the_operator_is_restricted() -> None:
    (deployment,) = of("Deployment", render())
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_of_two_operators_one_may_go_and_only_their_own_lease_is_theirs() -> None:
    documents = render("--namespace", "anneal-system")
    (deployment,) = of("Deployment", documents)
    (budget,) = of("PodDisruptionBudget", documents)
    assert deployment["spec"]["replicas"] == 2
    assert budget["spec"]["maxUnavailable"] == 1
    env = {e["name"]: e["value"] for e in deployment["spec"]["template"]["spec"]["containers"][0]["env"]}
    (role,) = of("Role", documents)
    place = f"{role['metadata']['namespace']}/{role['rules'][1]['resourceNames'][0]}"
    assert env["ANNEAL_LEASE"] == place == f"anneal-system/{deployment['metadata']['name']}"
    assert [rule["verbs"] for rule in role["rules"]] == [["create"], ["get", "update"]]
    assert not of("PodDisruptionBudget", render("--set", "operator.replicas=1"))


def test_crds_are_templated_and_kept() -> None:
    crds = of("CustomResourceDefinition", render())
    assert {crd["spec"]["names"]["kind"] for crd in crds} == {"FineTuneJob", "ModelDeployment"}
    assert all(crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for crd in crds)
    assert not of("CustomResourceDefinition", render("--set", "crds.enabled=false"))


def test_a_digest_wins_over_a_tag() -> None:
    digest = "sha256:" + "0" * 64
    (deployment,) = of("Deployment", render("--set", f"images.operator.digest={digest}"))
    image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image.endswith(f"/operator@{digest}")


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("images.operator.digest=latest", "digest"),
        ("acelerators={}", "acelerators"),
        ("accelerators[0].memoryGib=0", "memoryGib"),
    ],
)
def test_values_are_checked(setting: str, complaint: str) -> None:
    done = helm("--set", setting)
    assert done.returncode != 0
    assert complaint in done.stderr


def test_profiles_for_plain_nodes_keep_the_names() -> None:
    def names(*arguments: str) -> list[str]:
        (found,) = (c for c in of("ConfigMap", render(*arguments)))
        return [p["name"] for p in yaml.safe_load(found["data"]["config.yaml"])["accelerators"]]

    assert names() == names("--values", str(CHART / "values-cpu.yaml"))
