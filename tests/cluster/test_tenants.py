"""What a tenant writes in one namespace reads nothing and starts nothing in another: the operator on a real API server.

On an API server of the test's own (`own_server`): references are followed and refused there, and no node is needed. What
pods may reach over the network is not decided here: tests/chart judges the policies.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cluster import tools
from tests.cluster.operator_process import OperatorProcess, own_operator
from tests.cluster.own_server import (
    RBAC_PATH,
    ROOT,
    SYSTEM,
    TEAM,
    Json,
    OwnServer,
    grant,
    own_server,
    revoke,
    until,
)

pytestmark = pytest.mark.cluster
OTHER = "other"
MADE = {
    "batch/v1": ("jobs",),
    "apps/v1": ("deployments",),
    "v1": ("configmaps", "services", "pods"),
    "rbac.authorization.k8s.io/v1": ("roles", "rolebindings"),
}
"""Whatever the operator makes."""
MERGE = "application/merge-patch+json"
ARTIFACT = {"uri": f"pvc://store/other/model/{'a' * 64}", "digest": f"sha256:{'b' * 64}"}


@pytest.fixture(scope="session", autouse=True)
def kubeconfig() -> None:
    """Takes the place of the local cluster's: these tests need none."""


def collection(namespace: str, plural: str, version: str = "anneal.dev/v1alpha1") -> str:
    root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
    return f"{root}/namespaces/{namespace}/{plural}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    """Two tenants; the other has a finished job with labels, and a Secret."""
    with own_server(tmp_path_factory.mktemp("tenants")) as running:
        running.apply(
            "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OTHER}}
        )
        keys = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "their-keys"}}
        running.apply(collection(OTHER, "secrets", "v1"), keys)
        theirs = finetunejob("theirs")
        theirs["metadata"]["labels"] = {"model": "theirs"}
        running.apply(collection(OTHER, "finetunejobs"), theirs)
        done = {"type": "Complete", "status": "True", "reason": "Published", "message": ""}
        stamp = {"lastTransitionTime": "2026-01-01T00:00:00Z"}
        status = {"conditions": [done | stamp], "artifacts": {"merged": ARTIFACT}}
        running.call("PATCH", f"{collection(OTHER, 'finetunejobs')}/theirs/status", {"status": status}, MERGE)
        yield running


@pytest.fixture
def operator(server: OwnServer, tmp_path: Path) -> Iterator[OperatorProcess]:
    with own_operator(server, tmp_path) as running:
        yield running


def finetunejob(name: str) -> Json:
    """Return a job that names the other tenant's claim and Secret."""
    secret = {"secretRef": {"name": "their-keys"}}
    spec = {
        "baseModel": {"uri": "pvc://their-store/base"} | secret,
        "tasks": [{"name": "a", "data": {"uri": "pvc://their-store/a.jsonl"}}],
        "output": {"uri": "pvc://their-store/artifacts"} | secret,
    }
    return {
        "apiVersion": "anneal.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": spec,
    }


def modeldeployment(name: str, model: Json, **spec: Json) -> Json:
    meta = {"name": name}
    return {
        "apiVersion": "anneal.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": meta,
        "spec": {"model": model, **spec},
    }


def found(server: OwnServer, namespace: str) -> list[Json]:
    """Return everything of the kinds the operator makes that somebody made in a namespace."""
    lists = (
        server.call("GET", collection(namespace, p, version)) for version, ps in MADE.items() for p in ps
    )
    everything = [item for answer in lists for item in (answer or {"items": []})["items"]]
    return [item for item in everything if item["metadata"]["name"] != "kube-root-ca.crt"]


def jobs(server: OwnServer, namespace: str) -> list[Json]:
    return list((server.call("GET", collection(namespace, "jobs", "batch/v1")) or {"items": []})["items"])


def status(server: OwnServer, plural: str, name: str) -> Json:
    return dict((server.call("GET", f"{collection(TEAM, plural)}/{name}") or {}).get("status", {}))


def test_references_lead_into_ones_own_namespace_alone(server: OwnServer, operator: OperatorProcess) -> None:
    sources: dict[str, Json] = {
        "by-name": {"fineTuneJobRef": {"name": "theirs"}},
        "by-label": {"selector": {"model": "theirs"}},
    }
    for name, model in sources.items():
        server.apply(collection(TEAM, "modeldeployments"), modeldeployment(name, model))
    server.apply(collection(TEAM, "finetunejobs"), finetunejob("ours"))

    def followed() -> bool:
        operator.keep()
        told = [status(server, "modeldeployments", name).get("conditions") for name in sources]
        return all(told) and bool(jobs(server, TEAM))

    until(followed, "all three are followed")
    for name in sources:
        held = status(server, "modeldeployments", name)
        assert not held.get("versions"), held
        assert ARTIFACT["digest"] not in json.dumps(held)
    assert found(server, OTHER) == []
    # A pod's claims and Secrets are names of its own namespace: there is no field for another one.
    (job,) = jobs(server, TEAM)
    pod = job["spec"]["template"]["spec"]
    assert {
        v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v
    } == {"their-store"}
    assert '"namespace"' not in json.dumps(pod)


@pytest.mark.parametrize(
    ("plural", "obj"),
    [
        ("modeldeployments", modeldeployment("x", {"fineTuneJobRef": {"name": "other/theirs"}})),
        (
            "modeldeployments",
            modeldeployment("x", {"fineTuneJobRef": {"name": "theirs", "namespace": "other"}}),
        ),
        (
            "modeldeployments",
            modeldeployment("x", {"uri": "pvc://a/b", "secretRef": {"name": "other/their-keys"}}),
        ),
        (
            "modeldeployments",
            modeldeployment("x", {"uri": "pvc://a/b"}, gateway={"apiKeysSecret": {"name": "../other/keys"}}),
        ),
    ],
)
def test_a_name_that_would_reach_elsewhere_is_none(server: OwnServer, plural: str, obj: Json) -> None:
    status_code, answer = server.send(
        "POST", f"{collection(TEAM, plural)}?dryRun=All&fieldValidation=Strict", obj
    )
    assert status_code in (400, 422), answer


def allowed(server: OwnServer, namespace: str, group: str, resource: str, verb: str) -> bool:
    """Say whether the operator's account may do something."""
    asked = {"namespace": namespace, "group": group, "resource": resource, "verb": verb}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": f"system:serviceaccount:{SYSTEM}:anneal-operator", "resourceAttributes": asked},
    }
    answer = server.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    assert answer is not None
    return bool(answer["status"]["allowed"])


def test_an_operator_of_one_namespace_has_no_right_in_another(server: OwnServer) -> None:
    revoke(server, "ClusterRoleBinding", "RoleBinding")
    try:
        roles = namespaced()
        for role in roles:
            server.apply(
                f"{RBAC_PATH}/namespaces/{role['metadata']['namespace']}/{role['kind'].lower()}s", role
            )
        rules = [rule for role in roles if role["kind"] == "Role" for rule in role["rules"]]
        asked = [
            (group, resource, verb)
            for rule in rules
            if role_is_plain(rule)
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        ]
        until(lambda: allowed(server, TEAM, "batch", "jobs", "create"), "the roles are known")
        assert len(asked) > 30
        assert [one for one in asked if allowed(server, OTHER, *one)] == []
        for namespace in (TEAM, OTHER):
            assert not any(
                allowed(server, namespace, "", "secrets", verb) for verb in ("get", "list", "watch")
            )
    finally:
        grant(server)


def role_is_plain(rule: Json) -> bool:
    """Whether a rule is about kinds and not about one name."""
    return "resourceNames" not in rule


def namespaced() -> list[Json]:
    """Return the roles and bindings of the chart in namespace scope."""
    command = [tools.binary("helm"), "template", "anneal", ROOT / "charts" / "anneal", "-n", SYSTEM]
    settings = [
        "--set",
        "rbac.scope=namespace",
        "--set",
        f"watchNamespaces={{{TEAM}}}",
        "--kube-version",
        "1.34.4",
    ]
    command += [*settings, "--show-only", "templates/rbac.yaml"]
    done = subprocess.run([*map(str, command)], check=True, capture_output=True, text=True)
    objects = [o for o in yaml.safe_load_all(done.stdout) if o and o["kind"] in ("Role", "RoleBinding")]
    assert {o["metadata"]["namespace"] for o in objects} == {TEAM, SYSTEM}
    return objects
