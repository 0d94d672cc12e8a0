"""An etcd and an API server of a test's own, on loopback: no nodes, no controllers, nobody else to disturb.

They are the local cluster's binaries with the local cluster's settings, as far as `cluster.control_plane` has them for
both; who calls is told by a token, and the operator's rights are the chart's.
"""

import http.client
import json
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from cluster import certificates, control_plane, tools

Json = dict[str, Any]
ROOT = Path(__file__).parents[2]
CRDS = ROOT / "manifests" / "crds"
ADMIN = "administrator"
OPERATOR = "operator"
SYSTEM, TEAM = "anneal-system", "team"
USERS = (
    f'{ADMIN},admin,1,"system:masters"\n'
    f'{OPERATOR},system:serviceaccount:{SYSTEM}:anneal-operator,2,"system:serviceaccounts"\n'
)
"""Token, name, number and groups of everybody who calls."""
PATIENCE = 180.0
"""Seconds; a busy machine takes its time."""


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def until(holds: Callable[[], object], why: str, seconds: float = PATIENCE) -> float:
    """Wait for something, and return the seconds it took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, f"not within {seconds:.0f} s: {why}"
        time.sleep(0.1)
    return time.monotonic() - began


class OwnServer:
    """A control plane without controllers; `call` speaks as its administrator."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        (folder / "users.csv").write_text(USERS)

    def start(self) -> None:
        """Start both, and wait until the API server is ready."""
        etcd, peers = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        keys = certificates.service_accounts(self._folder)
        self._run("etcd", control_plane.etcd_command(self._folder / "etcd", etcd, peers))
        server = control_plane.api_server_command(etcd, "127.0.0.1", self.port, *keys)
        users = f"--token-auth-file={self._folder / 'users.csv'}"
        own = f"--cert-dir={self._folder / 'certificates'}"
        self._run("api-server", [*server, users, own, "--authorization-mode=RBAC"])
        until(self._ready, f"the API server is ready; see {self._folder}")

    def _run(self, name: str, command: list[object]) -> None:
        with (self._folder / f"{name}.log").open("wb") as log:
            words = [str(word) for word in command]
            self._processes.append(subprocess.Popen(words, stdout=log, stderr=log, cwd=self._folder))

    def stop(self) -> None:
        """End both."""
        for process in reversed(self._processes):
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()

    def _ready(self) -> bool:
        assert all(process.poll() is None for process in self._processes), f"ended: see {self._folder}"
        with suppress(OSError):
            return self.send("GET", "/readyz")[0] == 200
        return False

    def connection(self, seconds: float = 30) -> http.client.HTTPSConnection:
        """Return a connection; whose certificate this is needs no proof on loopback."""
        context = ssl._create_unverified_context()
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=seconds, context=context)

    def send(
        self, method: str, path: str, body: Json | None = None, media: str = "application/json"
    ) -> tuple[int, bytes]:
        """Send a request as the administrator."""
        connection = self.connection()
        headers = {"Authorization": f"Bearer {ADMIN}", "Content-Type": media}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def call(
        self, method: str, path: str, body: Json | None = None, media: str = "application/json"
    ) -> Json | None:
        """Return the answer to a request; None when there is no such thing."""
        status, answer = self.send(method, path, body, media)
        if status == 404:
            return None
        assert status < 300, f"{method} {path}: {status} {answer.decode()}"
        return dict(json.loads(answer))

    def apply(self, path: str, obj: Json) -> None:
        """Make an object, or bring it back to this."""
        where = f"{path}/{obj['metadata']['name']}?fieldManager=test&force=true"
        assert self.call("PATCH", where, obj, "application/apply-patch+yaml"), f"{path} does not exist"


CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
RBAC_PATH = "/apis/rbac.authorization.k8s.io/v1"


def crds() -> list[Json]:
    """Return the project's CRDs."""
    return [yaml.safe_load(path.read_text()) for path in sorted(CRDS.glob("*.yaml"))]


def install_crds(server: OwnServer) -> None:
    """Make the CRDs, and wait until they are served."""
    for crd in crds():
        server.apply(CRD_PATH, crd)
    resources = [crd["spec"]["names"]["plural"] for crd in crds()]
    until(lambda: all(served(server, plural) for plural in resources), "the CRDs are served")


def served(server: OwnServer, plural: str) -> bool:
    # A storage that is being made anew answers 429.
    return server.send("GET", f"/apis/anneal.dev/v1alpha1/{plural}")[0] == 200


def rights() -> list[tuple[str, Json]]:
    """Return the roles and bindings of the operator, as the chart has them, with the paths of their collections."""
    command = (tools.binary("helm"), "template", "anneal", ROOT / "charts" / "anneal", "-n", SYSTEM)
    wanted = ("--kube-version", tools.KUBERNETES_VERSION, "--show-only", "templates/rbac.yaml")
    done = subprocess.run([*map(str, command), *wanted], check=True, capture_output=True, text=True)
    found = [obj for obj in yaml.safe_load_all(done.stdout) if obj and "rbac" in obj["apiVersion"]]
    return [(_collection(obj), obj) for obj in found]


def _collection(obj: Json) -> str:
    inside = f"/namespaces/{obj['metadata']['namespace']}" if "namespace" in obj["metadata"] else ""
    return f"{RBAC_PATH}{inside}/{obj['kind'].lower()}s"


def grant(server: OwnServer) -> None:
    """Give the operator its rights."""
    for path, obj in rights():
        server.apply(path, obj)


def revoke(server: OwnServer, *kinds: str) -> None:
    """Take the operator's bindings of these kinds away."""
    for path, obj in rights():
        if obj["kind"] in kinds:
            server.call("DELETE", f"{path}/{obj['metadata']['name']}")


@contextmanager
def own_server(folder: Path) -> Iterator[OwnServer]:
    """An API server with the CRDs, two namespaces and the operator's rights."""
    server = OwnServer(folder)
    try:
        server.start()
        for name in (SYSTEM, TEAM):
            meta = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            server.apply("/api/v1/namespaces", meta)
        install_crds(server)
        grant(server)
        yield server
    finally:
        server.stop()
