"""The chart's policies on a real API server: a Secret is used only where its label says so.

On an API server of the test's own (`own_server`): what decides is admission, which needs no node.
"""

import json
import subprocess
from collections.abc import Iterator

import pytest
import yaml
from cluster import tools
from tests.cluster.own_server import ROOT, SYSTEM, TEAM, Json, OwnServer, own_server, until

pytestmark = pytest.mark.cluster
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
SECRETS = f"/api/v1/namespaces/{TEAM}/secrets"
PODS = f"/api/v1/namespaces/{TEAM}/pods"
GROUP = f"/apis/anneal.dev/v1alpha1/namespaces/{TEAM}"
USES = {"agreed": "storage", "tracked": "tracking", "keys": "api-keys", "plain": ""}
"""Secrets and their labels."""


@pytest.fixture(scope="session", autouse=True)
def kubeconfig() -> None:
    """Takes the place of the local cluster's: these tests need none."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    with own_server(tmp_path_factory.mktemp("secret-labels")) as running:
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        running.apply(f"/api/v1/namespaces/{TEAM}/serviceaccounts", account)
        for name, use in USES.items():
            running.apply(SECRETS, secret(name, use))
        for policy in policies():
            plural = "validatingadmissionpolicies", "validatingadmissionpolicybindings"
            running.apply(f"{ADMISSION}/{plural[policy['kind'].endswith('Binding')]}", policy)
        until(lambda: tell(running, "finetunejobs", finetunejob("plain"))[0] == 403, "the policy decides")
        yield running


def policies() -> list[Json]:
    command = [tools.binary("helm"), "template", "anneal", ROOT / "charts" / "anneal", "-n", SYSTEM]
    only = ["--kube-version", tools.KUBERNETES_VERSION, "--show-only", "templates/secretlabels.yaml"]
    done = subprocess.run([*map(str, command), *only], check=True, capture_output=True, text=True)
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def secret(name: str, use: str) -> Json:
    labels = {"anneal.dev/use": use} if use else {}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "labels": labels}}


def finetunejob(name: str, field: str = "output") -> Json:
    """Return a job that names a Secret in one of its fields."""
    spec: Json = {
        "baseModel": {"uri": "s3://models/base"},
        "tasks": [{"name": "a", "data": {"uri": "s3://data/a.jsonl"}}],
        "output": {"uri": "s3://artifacts/anneal"},
    }
    spec[field] = spec.get(field, {}) | {"secretRef": {"name": name}}
    return {
        "apiVersion": "anneal.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "job"},
        "spec": spec,
    }


def modeldeployment(**fields: Json) -> Json:
    spec = {"model": {"uri": "s3://artifacts/model"}, "engine": {"runtime": "openvino"}} | fields
    return {
        "apiVersion": "anneal.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "serve"},
        "spec": spec,
    }


def pod(environment: str = "", mounted: str = "", **labels: str) -> Json:
    """Return a pod as the operator builds them, or somebody else's."""
    main: Json = {"name": "main", "image": "x"}
    if environment:
        main["envFrom"] = [{"secretRef": {"name": environment}}]
    volumes = [{"name": "secret-0", "secret": {"secretName": mounted}}] if mounted else []
    spec = {"containers": [main], "volumes": volumes}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", "labels": labels}, "spec": spec}


OURS = {"anneal.dev/stage": "train"}


def tell(server: OwnServer, plural: str, obj: Json) -> tuple[int, str]:
    """Return what the API server would answer to a create."""
    path = PODS if plural == "pods" else f"{GROUP}/{plural}"
    status, answer = server.send("POST", f"{path}?dryRun=All", obj)
    return status, str(json.loads(answer).get("message", ""))


@pytest.mark.parametrize(
    ("plural", "obj"),
    [
        ("finetunejobs", finetunejob("agreed")),
        ("finetunejobs", finetunejob("agreed", "baseModel")),
        ("finetunejobs", finetunejob("tracked", "telemetry")),
        ("modeldeployments", modeldeployment(model={"uri": "s3://a/b", "secretRef": {"name": "agreed"}})),
        ("modeldeployments", modeldeployment(gateway={"apiKeysSecret": {"name": "keys"}})),
        ("modeldeployments", modeldeployment()),
        ("finetunejobs", finetunejob("not-there-yet")),
        ("pods", pod(environment="agreed", **OURS)),
        ("pods", pod(mounted="keys", **OURS)),
        ("pods", pod(environment="plain", mounted="plain")),
    ],
)
def test_what_is_labelled_or_not_ours_is_used(server: OwnServer, plural: str, obj: Json) -> None:
    assert tell(server, plural, obj) == (201, "")


@pytest.mark.parametrize(
    ("plural", "obj", "name", "label"),
    [
        ("finetunejobs", finetunejob("plain"), "plain", "storage"),
        ("finetunejobs", finetunejob("plain", "baseModel"), "plain", "storage"),
        ("finetunejobs", finetunejob("plain", "telemetry"), "plain", "tracking"),
        ("finetunejobs", finetunejob("keys"), "keys", "storage"),
        (
            "modeldeployments",
            modeldeployment(model={"uri": "s3://a/b", "secretRef": {"name": "plain"}}),
            "plain",
            "storage",
        ),
        (
            "modeldeployments",
            modeldeployment(gateway={"apiKeysSecret": {"name": "agreed"}}),
            "agreed",
            "api-keys",
        ),
        ("pods", pod(environment="plain", **OURS), "plain", "storage"),
        ("pods", pod(mounted="agreed", **OURS), "agreed", "api-keys"),
    ],
)
def test_any_other_secret_is_refused_by_name_with_the_remedy(
    server: OwnServer, plural: str, obj: Json, name: str, label: str
) -> None:
    status, message = tell(server, plural, obj)
    assert status == 403
    assert f"kubectl label secret {name} anneal.dev/use=" in message
    assert label in message


def test_a_resource_whose_secret_lost_its_label_can_still_be_finalized_but_not_started(
    server: OwnServer,
) -> None:
    server.apply(SECRETS, secret("passing", "storage"))
    server.apply(f"{GROUP}/finetunejobs", finetunejob("passing"))
    server.apply(SECRETS, secret("passing", ""))
    until(lambda: tell(server, "pods", pod(environment="passing", **OURS))[0] == 403, "the label is gone")
    merge = "application/merge-patch+json"
    for patch in ({"metadata": {"finalizers": ["anneal.dev/x"]}}, {"metadata": {"finalizers": None}}):
        assert server.send("PATCH", f"{GROUP}/finetunejobs/job", patch, merge)[0] == 200
    changed = {"spec": {"workers": {"nodes": 2}}}
    assert server.send("PATCH", f"{GROUP}/finetunejobs/job", changed, merge)[0] == 403
