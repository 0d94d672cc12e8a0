"""All that the chart can render is accepted by a real API server: strictly, and under restricted Pod Security.

On an API server of the test's own (`own_server`), which needs no node: a create is tried out with every field known and every
pod restricted. Kinds of the Prometheus operator are not among them; test_others_kinds.py has those.
"""

import subprocess
from collections.abc import Iterator

import pytest
import yaml
from cluster import tools
from tests.cluster.administrator import administrator
from tests.cluster.own_server import ROOT, SYSTEM, TEAM, Json, OwnServer

pytestmark = pytest.mark.cluster
CHART = ROOT / "charts" / "anneal"
EVERYTHING = [
    "watchNamespaces={team}",
    "networkPolicies.enabled=true",
    "networkPolicies.clients[0].podSelector.matchLabels.app=editor",
    "disruptionBudgets.enabled=true",
    "metrics.serviceMonitor.enabled=true",
    "metrics.prometheusRule.enabled=true",
    "metrics.dashboard.enabled=true",
    "images.pullSecrets[0].name=registry",
    "stores[0].name=ours",
    "stores[0].prefixes={s3://team-}",
    "trial.storageClassName=fast",
    "prepull[0].accelerator=a10-24g",
    "prepull[0].images={trainers,serving,tritonTensorRT}",
    "prepull[0].weights={s3://models/base}",
    "prepull[0].weightsSize=80Gi",
    "prepull[0].weightsSecretRef.name=s3-models",
]
ELSEWHERE = "monitoring.coreos.com/v1"
Environment = dict[str, str]


@pytest.fixture(scope="session", autouse=True)
def kubeconfig() -> None:
    """Takes the place of the local cluster's: these tests need none."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    folder = tmp_path_factory.mktemp("chart")
    server = OwnServer(folder)
    try:
        server.start()
        for name in (SYSTEM, TEAM):
            levels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
            meta = {"name": name, "labels": levels}
            server.apply("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
        yield administrator(server, folder)
    finally:
        server.stop()


def rendered(*settings: str) -> list[Json]:
    command = [tools.binary("helm"), "template", "anneal", CHART, "-n", SYSTEM, "--kube-version", "1.34.4"]
    words = [word for setting in settings for word in ("--set", setting)]
    done = subprocess.run([*map(str, command), *words], check=True, capture_output=True, text=True)
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def create(environment: Environment, objects: list[Json], *options: str) -> str:
    """Return what kubectl complains of."""
    command = [str(tools.binary("kubectl")), "create", "--validate=strict", *options, "-f", "-"]
    done = subprocess.run(
        command,
        input=yaml.safe_dump_all(objects),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr


@pytest.mark.parametrize(
    "settings",
    [[], EVERYTHING, ["rbac.scope=namespace", "watchNamespaces={team}"]],
    ids=["defaults", "everything", "namespaced"],
)
def test_every_object_is_accepted_without_a_warning(environment: Environment, settings: list[str]) -> None:
    objects = [o for o in rendered(*settings) if o["apiVersion"] != ELSEWHERE]
    # Pods are accepted only beside the accounts they name.
    accounts = [o for o in objects if o["kind"] == "ServiceAccount"] + [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": TEAM}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": SYSTEM}},
    ]
    assert create(environment, accounts) == ""
    try:
        others = [o for o in objects if o["kind"] != "ServiceAccount"]
        assert len(others) > 10
        assert create(environment, others, "--dry-run=server") == ""
    finally:
        command = [str(tools.binary("kubectl")), "delete", "-f", "-"]
        subprocess.run(command, input=yaml.safe_dump_all(accounts).encode(), env=environment, check=True)


def test_what_is_not_known_or_not_restricted_is_noticed(environment: Environment) -> None:
    (deployment,) = (o for o in rendered() if o["kind"] == "Deployment")
    deployment["spec"]["replica"] = 2
    assert "unknown field" in create(environment, [deployment], "--dry-run=server")
    del deployment["spec"]["replica"]
    deployment["spec"]["template"]["spec"]["hostNetwork"] = True
    assert "would violate PodSecurity" in create(environment, [deployment], "--dry-run=server")
