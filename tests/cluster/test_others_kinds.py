"""Kinds that others define, as samples and chart use them: an API server that has their CRDs takes them strictly, every field known.

On an API server of the test's own; the CRDs are those of pinned Go modules. Their controllers are not there, so nothing is
routed, scaled or scraped.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cluster import tools
from tests.cluster.administrator import administrator
from tests.cluster.own_server import CRD_PATH, ROOT, SYSTEM, Json, OwnServer, install_crds, until
from tests.cluster.test_chart_accepted import ELSEWHERE, EVERYTHING, create, rendered

pytestmark = pytest.mark.cluster
SAMPLES = ROOT / "manifests" / "samples"
Environment = dict[str, str]

OTHERS = {
    "gateway-api": (
        "sigs.k8s.io/gateway-api",
        "config/crd/standard/gateway.networking.k8s.io_",
        ("gateways", "httproutes"),
    ),
    "keda": ("github.com/kedacore/keda/v2", "config/crd/bases/keda.sh_", ("scaledobjects",)),
    "prometheus-operator": (
        "github.com/prometheus-operator/prometheus-operator",
        "example/prometheus-operator-crd/monitoring.coreos.com_",
        ("servicemonitors", "podmonitors", "prometheusrules"),
    ),
}
"""Module of the tools, Go module, and where in it CRDs lie, by plural."""


def others() -> list[Json]:
    """Return the CRDs."""
    return [
        yaml.safe_load(Path(f"{tools.source(module, dependency)}/{start}{plural}.yaml").read_text())
        for module, (dependency, start, plurals) in OTHERS.items()
        for plural in plurals
    ]


def path(crd: Json) -> str:
    """Return where a kind's resources are served."""
    version = next(each["name"] for each in crd["spec"]["versions"] if each["storage"])
    return f"/apis/{crd['spec']['group']}/{version}/{crd['spec']['names']['plural']}"


@pytest.fixture(scope="session", autouse=True)
def kubeconfig() -> None:
    """Takes the place of the local cluster's: these tests need none."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    folder = tmp_path_factory.mktemp("others")
    crds = others()
    server = OwnServer(folder)
    try:
        server.start()
        server.apply(
            "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}}
        )
        install_crds(server)
        for crd in crds:
            server.apply(CRD_PATH, crd)
        until(lambda: all(server.send("GET", path(crd))[0] == 200 for crd in crds), "all kinds are served")
        yield administrator(server, folder)
    finally:
        server.stop()


def complaint(environment: Environment, objects: list[Json]) -> str:
    return create(environment, objects, "--dry-run=server")


def sample(name: str) -> list[Json]:
    return [each for each in yaml.safe_load_all((SAMPLES / f"{name}.yaml").read_text()) if each]


def monitors() -> list[Json]:
    """Return what the chart has for the Prometheus operator."""
    labels = ["metrics.serviceMonitor.labels.release=kps", "metrics.prometheusRule.labels.release=kps"]
    return [each for each in rendered(*EVERYTHING, *labels) if each["apiVersion"] == ELSEWHERE]


@pytest.mark.parametrize("name", ["expose-route", "autoscale-keda"])
def test_a_sample_is_accepted_without_a_warning(environment: Environment, name: str) -> None:
    assert complaint(environment, sample(name)) == ""


def test_what_the_chart_has_for_prometheus_is_accepted_without_a_warning(environment: Environment) -> None:
    found = monitors()
    assert {each["kind"] for each in found} == {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
    assert complaint(environment, found) == ""


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"timeouts": {"request": "5 minutes"}}, "timeouts.request"),
        ({"timeout": "300s"}, "unknown field"),
        ({"backendRefs": [{"name": "expose"}]}, "Must have port for Service reference"),
    ],
)
def test_a_route_that_would_not_work_is_refused(environment: Environment, change: Json, told: str) -> None:
    (route,) = (each for each in sample("expose-route") if each["kind"] == "HTTPRoute")
    route["spec"]["rules"][0] |= change
    assert told in complaint(environment, [route])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"pollingInterval": "5 s"}, "pollingInterval"),
        ({"maxReplicas": 3}, "unknown field"),
        ({"triggers": [{"type": "prometheus"}]}, "triggers[0].metadata"),
    ],
)
def test_a_scaler_that_would_not_work_is_refused(environment: Environment, change: Json, told: str) -> None:
    (scaler,) = sample("autoscale-keda")
    scaler["spec"] |= change
    assert told in complaint(environment, [scaler])


@pytest.mark.parametrize("kind", ["ServiceMonitor", "PodMonitor", "PrometheusRule"])
def test_a_field_that_prometheus_does_not_know_is_noticed(environment: Environment, kind: str) -> None:
    (monitor,) = (each for each in monitors() if each["kind"] == kind)
    monitor["spec"]["everything"] = True
    assert "unknown field" in complaint(environment, [monitor])
