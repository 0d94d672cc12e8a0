"""The REST client and the pulls, against a real HTTP server that records what it is asked."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration

from anneal_operator.cluster import errors, pull
from anneal_operator.cluster.rest import RestCluster

Recorded = tuple[str, str, str, dict]


class Server(ThreadingHTTPServer):
    """Answers what a test has put under a method and path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[tuple[str, str], tuple[int, object]] = {}
        self.next_pages: dict[tuple[str, str], tuple[int, object]] = {}
        self.asked: list[Recorded] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class Handler(BaseHTTPRequestHandler):
    server: Server

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length) or b"{}")
        self.server.asked.append((self.command, self.path, self.headers.get("Content-Type", ""), body))
        key = (self.command, self.path.split("?")[0])
        pages = self.server.next_pages if "continue=" in self.path else self.server.answers
        status, value = pages.get(key, (404, {}))
        data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def cluster(server: Server) -> Iterator[RestCluster]:
    configuration = Configuration(host=f"http://127.0.0.1:{server.port}")
    client = ApiClient(configuration)
    yield RestCluster(client)
    client.rest_client.pool_manager.clear()


JOB = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "n"}}
JOBS = "/apis/batch/v1/namespaces/n/jobs"


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
