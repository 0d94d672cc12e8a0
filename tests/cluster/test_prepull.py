"""Images and weights that the nodes of a pool have before a run asks: copied once to each node, handed out on that node."""

from collections.abc import Iterator

import pytest
import yaml
from cluster import settings
from tests.cluster.conftest import finetunejob, install_chart
from tests.cluster.kube import Json, Kube, holds
from tests.cluster.s3_server import S3Server, s3_server
from tests.tiny_model import write_tiny_model

pytestmark = [pytest.mark.cluster, pytest.mark.full]
BASE, PROFILE = "s3://inputs/base", "a100-80g"
ENTRY = {
    "accelerator": PROFILE,
    "images": ["trainers"],
    "weights": [BASE],
    "weightsSize": "1Gi",
    "weightsSecretRef": {"name": "s3-weights"},
}
DAEMON = f"anneal-operator-prepull-{PROFILE}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server with a base model."""
    with s3_server(tmp_path_factory.mktemp("s3"), settings.ADDRESS) as running:
        folder = tmp_path_factory.mktemp("inputs")
        write_tiny_model(folder / "base")
        running.filesystem().mkdir("inputs")
        running.filesystem().put(str(folder / "base"), "inputs/", recursive=True)
        yield running


@pytest.fixture(scope="module")
def system(operator: Kube, server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kube]:
    """The operator's namespace, with weights on all nodes of the training pool."""
    operator.apply(server.kubernetes_secret("s3-weights"))
    values = tmp_path_factory.mktemp("values") / "prepull.yaml"
    values.write_text(yaml.safe_dump({"prepull": [ENTRY]}))
    install_chart(values)
    operator.run("rollout", "status", "daemonset", DAEMON, "--timeout=180s")
    yield operator
    install_chart()
    operator.run("delete", "secret", "s3-weights")


def copies(system: Kube) -> dict[str, str]:
    """Return what the copier of each node has said."""
    pods = system.list("pods", f"app.kubernetes.io/component=prepull,anneal.dev/accelerator={PROFILE}")
    return {
        pod["spec"]["nodeName"]: system.run("logs", pod["metadata"]["name"], "-c", "weights") for pod in pods
    }


@pytest.fixture(scope="module")
def job(team: Kube, system: Kube, server: S3Server) -> Json:
    """A finished run whose base model lies in the store, and on its nodes."""

    def copied(_: Json) -> bool:
        return all(f"{BASE}: copied, " in said for said in copies(system).values())

    system.wait("daemonset", DAEMON, copied, 60, "a copy on every node")
    team.apply(server.kubernetes_secret("s3-store"))
    base = {"uri": BASE, "secretRef": {"name": "s3-store"}}
    team.apply(finetunejob("near", baseModel=base))
    return team.wait("finetunejob", "near", holds("Complete"), 300, "Complete")


def test_every_node_of_the_pool_has_a_copy_and_no_other_has(system: Kube, job: Json) -> None:
    pool = system.list("nodes", "anneal.dev/pool=training")
    assert set(copies(system)) == {node["metadata"]["name"] for node in pool}


def test_ranks_took_the_copy_of_their_own_node(team: Kube, system: Kube, job: Json) -> None:
    ranks = team.list("pods", "anneal.dev/stage=train,anneal.dev/finetunejob=near")
    nodes = {pod["spec"]["nodeName"] for pod in ranks}
    handed_out = {node for node, said in copies(system).items() if ": handed out" in said}
    assert nodes
    assert nodes <= handed_out


def test_without_the_copies_the_store_is_asked(team: Kube, system: Kube, job: Json) -> None:
    # An empty selector's pods: the Service leads nowhere.
    system.patch("service", DAEMON, {"spec": {"selector": {"anneal.dev/accelerator": "none"}}})
    spec = {**job["spec"], "optimization": {**job["spec"]["optimization"], "seed": 1}}
    team.apply({**finetunejob("far"), "spec": spec})
    team.wait("finetunejob", "far", holds("Complete"), 300, "Complete")
