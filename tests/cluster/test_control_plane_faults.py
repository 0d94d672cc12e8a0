"""Faults of the control plane under the operator as a process: it recovers, or it ends non-zero and is started again.

Against an etcd and an API server of the tests' own, started by `own_server` with the local cluster's binaries and
settings: no nodes, no controllers, and nobody else's cluster is disturbed. Between the two stands a proxy that refuses,
stays silent or drops connections. A FineTuneJob is followed when its inspect Job is there.
"""

import itertools
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.cluster.fault_proxy import Fault, Refusal, Request
from tests.cluster.operator_process import LEASE, OperatorProcess, own_operator
from tests.cluster.own_server import (
    CRD_PATH,
    TEAM,
    Json,
    OwnServer,
    crds,
    grant,
    install_crds,
    own_server,
    revoke,
    served,
    until,
)

from anneal_operator import lease, streams

pytestmark = pytest.mark.cluster
BUSY = 60.0
"""Seconds that a machine which does other things may add to any bound."""
JOBS = f"/apis/batch/v1/namespaces/{TEAM}/jobs"
TUNES = f"/apis/anneal.dev/v1alpha1/namespaces/{TEAM}/finetunejobs"
LEASE_PATH = "/apis/coordination.k8s.io/v1/namespaces/{}/leases/{}".format(*LEASE.split("/"))


@pytest.fixture(scope="session", autouse=True)
def kubeconfig() -> None:
    """Takes the place of the local cluster's: these tests need none."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    with own_server(tmp_path_factory.mktemp("control-plane")) as running:
        yield running


Start = Callable[[], OperatorProcess]


@pytest.fixture
def start(server: OwnServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Start operators, each behind a proxy of its own; tell their stories when a test fails."""
    numbers = itertools.count()
    with ExitStack() as running:

        def one() -> OperatorProcess:
            folder = tmp_path / f"operator-{next(numbers)}"
            folder.mkdir()
            return running.enter_context(own_operator(server, folder))

        yield one
    server.call("DELETE", LEASE_PATH)


@pytest.fixture
def operator(server: OwnServer, start: Start) -> OperatorProcess:
    """An operator that leads, and has followed a FineTuneJob."""
    running = start()
    follows(server, running, "first")
    return running


def create(server: OwnServer, name: str) -> str:
    """Create a FineTuneJob of that name, and return its UID."""
    spec = {
        "baseModel": {"uri": "pvc://models/base"},
        "tasks": [{"name": "a", "data": {"uri": "pvc://data/a.jsonl"}}],
        "output": {"uri": "pvc://store/anneal"},
    }
    meta = {"name": name, "namespace": TEAM}
    obj = {"apiVersion": "anneal.dev/v1alpha1", "kind": "FineTuneJob", "metadata": meta, "spec": spec}
    made = server.call("POST", TUNES, obj)
    assert made is not None
    return str(made["metadata"]["uid"])


def inspected(server: OwnServer, uid: str) -> bool:
    """Whether a FineTuneJob's first Job is there."""
    found = (server.call("GET", JOBS) or {"items": []})["items"]
    return any(ref["uid"] == uid for job in found for ref in job["metadata"].get("ownerReferences", []))


def follows(server: OwnServer, operator: OperatorProcess, prefix: str, bound: float = 0.0) -> float:
    """Return the seconds until a new FineTuneJob is followed; the operator may be started again meanwhile."""
    uid = create(server, f"{prefix}-{time.monotonic_ns()}")
    ends: list[int] = []

    def done() -> bool:
        ends.extend(operator.keep())
        assert 0 not in ends, "it ended as if all were well"
        return inspected(server, uid)

    return until(done, f"a FineTuneJob is followed; ended with {ends}", bound + BUSY)


def refuse(refusal: Refusal, which: Callable[[Request], bool]) -> Fault:
    """Return the fault that answers some requests so; the Lease is spared."""
    return lambda request: refusal if which(request) and "/leases" not in request.path else None


EXPIRED = Refusal(410, "Expired")
BUSY_SERVER = Refusal(429, "TooManyRequests", seconds=1)
BROKEN = Refusal(500, "InternalError")
AWAY = Refusal(503, "ServiceUnavailable")


@pytest.mark.parametrize(
    ("refusal", "which", "seconds"),
    [
        pytest.param(EXPIRED, lambda r: r.watches, 4, id="410-on-watches", marks=pytest.mark.full),
        pytest.param(BUSY_SERVER, lambda r: True, 8, id="429-on-everything", marks=pytest.mark.full),
        pytest.param(BROKEN, lambda r: True, 8, id="500-on-everything"),
        pytest.param(AWAY, lambda r: not r.writes, 8, id="503-on-reads", marks=pytest.mark.full),
        pytest.param(BROKEN, lambda r: r.writes, 8, id="500-on-writes", marks=pytest.mark.full),
    ],
)
def test_refusals_end_and_work_goes_on(
    server: OwnServer,
    operator: OperatorProcess,
    refusal: Refusal,
    which: Callable[[Request], bool],
    seconds: float,
) -> None:
    operator.proxy.fault = refuse(refusal, which)
    operator.proxy.drop()
    uid = create(server, f"refused-{time.monotonic_ns()}")
    time.sleep(seconds)
    operator.proxy.heal()
    ends: list[int] = []
    back = until(lambda: ends.extend(operator.keep()) or inspected(server, uid), "it is followed", 60 + BUSY)
    assert 0 not in ends
    print(f"followed {back:.1f} s after the refusals ended; ended with {ends}")


def test_watches_that_expire_by_themselves_go_on(server: OwnServer, operator: OperatorProcess) -> None:
    for _ in range(3):
        operator.proxy.drop()
        follows(server, operator, "dropped", 10)
    assert operator.exit_code is None


@pytest.mark.full
def test_a_short_partition_is_bridged(server: OwnServer, operator: OperatorProcess) -> None:
    operator.proxy.cut()
    time.sleep(lease.DURATION / 2)
    operator.proxy.heal()
    print(f"followed {follows(server, operator, 'bridged', 30):.1f} s after the partition")


def test_a_long_partition_ends_the_leader_before_its_rival_begins(
    server: OwnServer, operator: OperatorProcess
) -> None:
    operator.proxy.cut()
    seconds = until(lambda: operator.exit_code is not None, "it ends", lease.DURATION + lease.RENEW + BUSY)
    assert operator.exit_code == 75
    operator.proxy.heal()
    back = follows(server, operator, "healed", lease.TAKEOVER)
    print(f"ended {seconds:.1f} s after the partition began; followed {back:.1f} s after it")


@pytest.mark.parametrize(
    "kinds",
    [
        pytest.param(("ClusterRoleBinding", "RoleBinding"), id="all"),
        # The Lease is still renewed: only the watches tell.
        pytest.param(("ClusterRoleBinding",), id="all-but-the-lease", marks=pytest.mark.full),
    ],
)
def test_rights_that_are_revoked_and_given_back(
    server: OwnServer, operator: OperatorProcess, kinds: tuple[str, ...]
) -> None:
    revoke(server, *kinds)
    try:
        operator.proxy.drop()
        time.sleep(10)
        uid = create(server, f"forbidden-{time.monotonic_ns()}")
        lost = lease.DURATION + streams.SILENCE
        seconds = until(
            lambda: operator.exit_code or operator.unhealthy(), "it says that it is of no use", lost + BUSY
        )
        assert operator.exit_code != 0
        assert not inspected(server, uid)
    finally:
        grant(server)
    print(
        f"ended or unhealthy {seconds:.1f} s later; followed {follows(server, operator, 'granted', 60):.1f} s after"
    )


def test_a_crd_that_is_removed_and_comes_back(server: OwnServer, operator: OperatorProcess) -> None:
    for crd in crds():
        server.call("DELETE", f"{CRD_PATH}/{crd['metadata']['name']}")
    try:
        until(lambda: not served(server, "finetunejobs"), "the CRD is gone")
        seconds = until(
            lambda: operator.exit_code or operator.unhealthy(),
            "it says that it is of no use",
            streams.SILENCE + BUSY,
        )
        assert operator.exit_code != 0
    finally:
        install_crds(server)
    print(
        f"ended or unhealthy {seconds:.1f} s later; followed {follows(server, operator, 'restored', 60):.1f} s after"
    )


def test_a_crd_that_lets_nonsense_through(server: OwnServer, operator: OperatorProcess) -> None:
    """What its schema no longer refuses is a condition, and no other resource waits for it."""
    crd = next(found for found in crds() if found["spec"]["names"]["plural"] == "finetunejobs")
    path = f"{CRD_PATH}/{crd['metadata']['name']}"
    open_schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {**crd["spec"]["versions"][0], "schema": {"openAPIV3Schema": open_schema}}
    server.call("PATCH", path, {"spec": {"versions": [version]}}, "application/merge-patch+json")
    name = f"nonsense-{time.monotonic_ns()}"
    try:
        meta = {"name": name, "namespace": TEAM}
        obj = {
            "apiVersion": "anneal.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": meta,
            "spec": {"tasks": 7},
        }
        until(lambda: server.send("POST", TUNES, obj)[0] in (201, 409), "the schema is open")
        until(lambda: reason(server, name) == "InvalidSpec", "a condition says so")
        follows(server, operator, "sensible", 10)
        assert operator.exit_code is None
    finally:
        server.call("DELETE", f"{TUNES}/{name}")
        install_crds(server)


def reason(server: OwnServer, name: str) -> str:
    found: Json = server.call("GET", f"{TUNES}/{name}") or {}
    return next((str(c["reason"]) for c in found.get("status", {}).get("conditions", [])), "")


@pytest.mark.full
def test_liveness_follows_the_watches_and_not_the_process(
    server: OwnServer, operator: OperatorProcess
) -> None:
    """Watches that are answered with silence: the process lives, its Lease is renewed, and its probe fails."""
    operator.proxy.mute(lambda request: request.watches)
    assert operator.unhealthy() == ""
    seconds = until(operator.unhealthy, "the probe fails", streams.SILENCE + BUSY)
    assert "watches not heard of" in operator.unhealthy()
    assert operator.exit_code is None
    print(f"unhealthy after {seconds:.1f} s of silence")


# Two replicas.


def holder(server: OwnServer) -> str:
    held = server.call("GET", LEASE_PATH) or {}
    return str(held.get("spec", {}).get("holderIdentity") or "")


def leads(server: OwnServer, operator: OperatorProcess) -> bool:
    return holder(server).endswith(f"_{operator.process.pid}")


@pytest.fixture
def pair(server: OwnServer, start: Start) -> tuple[OperatorProcess, OperatorProcess]:
    """One that leads and one that stands by."""
    first = start()
    until(lambda: leads(server, first), "the first leads")
    second = start()
    until(lambda: any("/leases/" in r.path for r in second.proxy.passed), "the second looks at the Lease")
    return first, second


@pytest.mark.parametrize(
    "number",
    [signal.SIGSTOP, *(pytest.param(n, marks=pytest.mark.full) for n in (signal.SIGKILL, signal.SIGTERM))],
)
def test_the_other_takes_over(
    server: OwnServer, pair: tuple[OperatorProcess, OperatorProcess], number: signal.Signals
) -> None:
    first, second = pair
    first.send(number)
    stopped = time.time()
    uid = create(server, f"taken-over-{time.monotonic_ns()}")
    leading = until(lambda: leads(server, second), "the other leads", lease.TAKEOVER + BUSY)
    working = until(lambda: inspected(server, uid), "the other works", BUSY)
    first.send(signal.SIGCONT)
    ended = until(lambda: first.exit_code is not None, "the first ends", BUSY)
    print(
        f"{number.name}: leads after {leading:.1f} s, works {working:.1f} s later, first ended {ended:.1f} s later"
    )
    fenced = stopped if number is not signal.SIGTERM else stopped + lease.MARGIN
    assert first.proxy.written(fenced) == []
    assert first.exit_code == {signal.SIGKILL: -9, signal.SIGTERM: 0, signal.SIGSTOP: 75}[number]
