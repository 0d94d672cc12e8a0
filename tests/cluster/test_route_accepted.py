"""The sample of the Gateway API, as an API server takes it that has the standard CRDs of that API: strictly, every field known.

On an API server of the test's own; the CRDs are those of the pinned Go module. No controller of Gateways is there, so nothing is routed.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cluster import tools
from tests.cluster.administrator import administrator
from tests.cluster.own_server import CRD_PATH, ROOT, Json, OwnServer, install_crds, until

pytestmark = pytest.mark.cluster
SAMPLE = ROOT / "manifests" / "samples" / "expose-route.yaml"
STANDARD = Path("config/crd/standard")
ROUTES = "/apis/gateway.networking.k8s.io/v1/httproutes"


@pytest.fixture(scope="session", autouse=True)
def kubeconfig() -> None:
    """Takes the place of the local cluster's: these tests need none."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("route")
    crds = tools.source("gateway-api", "sigs.k8s.io/gateway-api") / STANDARD
    server = OwnServer(folder)
    try:
        server.start()
        install_crds(server)
        for name in ("gateways", "httproutes"):
            server.apply(
                CRD_PATH, yaml.safe_load((crds / f"gateway.networking.k8s.io_{name}.yaml").read_text())
            )
        until(lambda: server.send("GET", ROUTES)[0] == 200, "routes are served")
        yield administrator(server, folder)
    finally:
        server.stop()


def create(environment: dict[str, str], objects: list[Json]) -> subprocess.CompletedProcess[str]:
    """Try the objects out."""
    command = [tools.binary("kubectl"), "create", "--validate=strict", "--dry-run=server", "-f", "-"]
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    return subprocess.run(command, input=listed, env=environment, capture_output=True, text=True, check=False)


def test_the_sample_is_accepted_without_a_warning(environment: dict[str, str]) -> None:
    objects = list(yaml.safe_load_all(SAMPLE.read_text()))
    done = create(environment, objects)
    assert done.stderr == ""
    assert done.stdout.count("(server dry run)") == len(objects) == 4


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"timeouts": {"request": "5 minutes"}}, "timeouts.request"),
        ({"timeout": "300s"}, "unknown field"),
        ({"backendRefs": [{"name": "expose"}]}, "Must have port for Service reference"),
    ],
)
def test_a_route_that_would_not_work_is_refused(
    environment: dict[str, str], change: Json, complaint: str
) -> None:
    (route,) = (d for d in yaml.safe_load_all(SAMPLE.read_text()) if d["kind"] == "HTTPRoute")
    route["spec"]["rules"][0] |= change
    assert complaint in create(environment, [route]).stderr
