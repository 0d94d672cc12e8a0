"""The REST client and the pulls, against a real HTTP server that records what it is asked."""

from collections.abc import Iterator

import pytest
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration
from recorder import JOBS, Server

from anneal_operator.cluster import errors, pull
from anneal_operator.cluster.rest import RestCluster


@pytest.fixture
def cluster(server: Server) -> Iterator[RestCluster]:
    configuration = Configuration(host=f"http://127.0.0.1:{server.port}")
    client = ApiClient(configuration)
    yield RestCluster(client)
    client.rest_client.pool_manager.clear()


JOB = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "n"}}


def test_get_returns_none_for_what_is_not_there(server: Server, cluster: RestCluster) -> None:
    server.answers["GET", f"{JOBS}/j"] = (200, JOB)
    assert cluster.get("Job", "n", "j") == JOB
    assert cluster.get("Job", "n", "k") is None


def test_lists_are_read_page_by_page(server: Server, cluster: RestCluster) -> None:
    server.answers["GET", JOBS] = (200, {"items": [1], "metadata": {"continue": "more"}})
    server.next_pages["GET", JOBS] = (200, {"items": [2], "metadata": {}})
    assert cluster.select("Job", "n", "a=b") == [1, 2]
    assert "labelSelector=a%3Db" in server.asked[0][1]
    assert "continue=more" in server.asked[1][1]


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (409, "AlreadyExists", errors.AlreadyExists),
        (409, "Conflict", errors.Conflict),
        (404, "NotFound", errors.NotFound),
        (403, "Forbidden", errors.ApiError),
    ],
)
def test_refusals_are_told_apart(
    server: Server, cluster: RestCluster, status: int, reason: str, kind: type[errors.ApiError]
) -> None:
    server.answers["POST", JOBS] = (status, {"reason": reason, "message": "why"})
    with pytest.raises(kind, match="why"):
        cluster.create(JOB)


def test_an_answer_that_is_not_json_is_an_error_with_its_text(server: Server, cluster: RestCluster) -> None:
    server.answers["POST", JOBS] = (502, "bad gateway")
    with pytest.raises(errors.ApiError, match="bad gateway"):
        cluster.create(JOB)


def test_apply_is_server_side_with_our_field_manager(server: Server, cluster: RestCluster) -> None:
    server.answers["PATCH", f"{JOBS}/j"] = (200, JOB)
    cluster.apply(JOB)
    method, path, content, body = server.asked[0]
    assert (method, content, body) == ("PATCH", "application/apply-patch+yaml", JOB)
    assert "fieldManager=anneal" in path
    assert "force=true" in path


def test_delete_names_the_uid_it_means(server: Server, cluster: RestCluster) -> None:
    server.answers["DELETE", f"{JOBS}/j"] = (200, {})
    cluster.delete("Job", "n", "j", "u1")
    assert server.asked[0][3] == {"propagationPolicy": "Background", "preconditions": {"uid": "u1"}}
    cluster.delete("Job", "n", "gone", "u1")


def test_status_goes_to_the_subresource_and_finalizers_carry_the_version(
    server: Server, cluster: RestCluster
) -> None:
    root = "/apis/anneal.dev/v1alpha1/namespaces/n/finetunejobs/f"
    job = {"kind": "FineTuneJob", "metadata": {"name": "f", "namespace": "n", "resourceVersion": "7"}}
    server.answers["PUT", f"{root}/status"] = (200, job)
    server.answers["PATCH", root] = (200, job)
    cluster.update_status({**job, "status": {"phase": "x"}})
    cluster.set_finalizers(job, [])
    assert server.asked[0][3]["status"] == {"phase": "x"}
    assert server.asked[1][2] == "application/merge-patch+json"
    assert server.asked[1][3] == {"metadata": {"resourceVersion": "7", "finalizers": []}}


def test_a_pods_answer_is_bounded_and_optional(server: Server) -> None:
    server.answers["GET", "/short"] = (200, "ok")
    server.answers["GET", "/long"] = (200, "x" * (pull.LIMIT + 1))
    server.answers["GET", "/bad"] = (500, "no")
    pods = pull.HttpPods()
    assert pods.get("127.0.0.1", server.port, "/short") == "ok"
    assert pods.get("127.0.0.1", server.port, "/long") is None
    assert pods.get("127.0.0.1", server.port, "/bad") is None
    assert pods.get("127.0.0.1", 1, "/short") is None


def test_a_server_that_is_away_is_an_error_of_its_own(server: Server) -> None:
    client = ApiClient(Configuration(host="http://127.0.0.1:1"))
    with pytest.raises(errors.ApiError, match="Unreachable"):
        RestCluster(client).get("Job", "n", "j")


def test_replace_carries_the_version(server: Server, cluster: RestCluster) -> None:
    server.answers["PUT", f"{JOBS}/j"] = (200, JOB)
    versioned = {**JOB, "metadata": {**JOB["metadata"], "resourceVersion": "7"}}
    assert cluster.replace(versioned) == JOB
    assert server.asked[0][3] == versioned
