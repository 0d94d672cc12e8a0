"""Two operators and one Lease: who writes, who waits, and for how long."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from api_server import ApiServer, Object
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration
from recorder import JOBS, Server
from world import CONFIG, World, finetunejob, inspected

from anneal_operator import lease
from anneal_operator.cluster.errors import ApiError
from anneal_operator.cluster.rest import RestCluster
from anneal_operator.leader import Leader
from anneal_operator.reconciler import Reconciler

PLACE = ("system", "anneal-operator")


class Lost(BaseException):
    """The process has ended."""


class Cell:
    """A clock that is turned by hand, and an API server that can be cut off."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.server = ApiServer()
        self.away = False

    def leader(self, identity: str) -> Leader:
        return Leader(Cut(self), *PLACE, identity, lambda: self.now, self.end)

    def end(self) -> None:
        raise Lost

    @property
    def holder(self) -> str:
        held = self.server.get("Lease", *PLACE)
        return str(held["spec"]["holderIdentity"]) if held else ""


class Cut:
    """The way to the API server."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    def _server(self) -> ApiServer:
        if self._cell.away:
            raise ApiError(0, "Unreachable", "no route")
        return self._cell.server

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        return self._server().get(kind, namespace, name)

    def create(self, obj: Object) -> Object:
        return self._server().create(obj)

    def replace(self, obj: Object) -> Object:
        return self._server().replace(obj)


class Fenced:
    """A cluster whose every write is fenced, as RestCluster's are."""

    def __init__(self, server: ApiServer, leader: Leader) -> None:
        self._server = server
        self._leader = leader

    def __getattr__(self, verb: str) -> object:
        if verb in ("get", "recall", "select"):
            return getattr(self._server, verb)

        def write(*arguments: object) -> object:
            with self._leader.writing():
                return getattr(self._server, verb)(*arguments)

        return write


def test_one_leads_and_the_other_takes_over_after_the_stated_time() -> None:
    cell = Cell()
    first, second = cell.leader("a"), cell.leader("b")
    assert first.turn()
    assert not second.turn()
    died = cell.now
    while not second.turn():
        cell.now += lease.RENEW
    assert cell.holder == "b"
    assert lease.DURATION < cell.now - died <= lease.TAKEOVER + lease.RENEW


def test_a_leader_that_renews_is_never_taken_from() -> None:
    cell = Cell()
    first, second = cell.leader("a"), cell.leader("b")
    assert first.turn()
    for _ in range(100):
        cell.now += lease.RENEW
        assert first.turn()
        assert not second.turn()
    assert first.left == lease.DURATION


def test_a_restarted_container_goes_on_at_once() -> None:
    cell = Cell()
    assert cell.leader("pod_1").turn()
    assert cell.leader("pod_1").turn()


def test_a_leader_that_resigns_makes_nobody_wait() -> None:
    cell = Cell()
    first, second = cell.leader("a"), cell.leader("b")
    assert first.turn()
    first.resign()
    assert second.turn()
    with pytest.raises(ApiError, match="NotLeading"):
        with first.writing():
            pass
    first.keep()


def test_near_the_end_of_the_lease_writes_are_refused_and_at_its_end_the_process_ends() -> None:
    cell = Cell()
    leader = cell.leader("a")
    assert leader.turn()
    cell.away = True
    cell.now += lease.DURATION - lease.MARGIN + 0.1
    leader.keep()
    with pytest.raises(ApiError, match="NotLeading"):
        with leader.writing():
            pass
    cell.away = False
    leader.keep()
    with leader.writing():
        pass
    cell.away = True
    cell.now += lease.DURATION
    with pytest.raises(Lost):
        leader.keep()


def test_a_lease_that_somebody_has_edited_is_read_again() -> None:
    cell = Cell()
    leader = cell.leader("a")
    assert leader.turn()
    cell.server.patch(("Lease", *PLACE), {"metadata": {"labels": {"a": "b"}}})
    assert not leader.turn()
    assert leader.turn()


@pytest.mark.parametrize("moment", range(1, 8))
def test_a_leader_frozen_past_its_lease_writes_nothing_when_it_wakes(moment: int) -> None:
    """The freeze comes right before one of its writes; another leads when it wakes."""
    cell, world = Cell(), World()
    world.player.default["inspect"] = inspected()
    world.server.put(finetunejob())
    leader, rival = cell.leader("a"), cell.leader("b")
    assert leader.turn()
    fenced = Fenced(world.server, Frozen(cell, leader, rival, moment))
    operator = Reconciler(fenced, world.pods, CONFIG, lambda: world.now)  # type: ignore[arg-type]
    with pytest.raises(Lost):
        for _ in range(20):
            operator.reconcile(world.key("FineTuneJob", "tune"))
            world.player.play()
            world.now += timedelta(seconds=5)
    assert len(world.server.writes) == moment - 1
    assert cell.holder == "b"


class Frozen:
    """A leader that is frozen before its n-th write, for long enough that another takes over."""

    def __init__(self, cell: Cell, leader: Leader, rival: Leader, moment: int) -> None:
        self._cell, self._leader, self._rival, self._left = cell, leader, rival, moment

    @contextmanager
    def writing(self) -> Iterator[None]:
        self._left -= 1
        if self._left == 0:
            self._rival.turn()
            self._cell.now += lease.TAKEOVER
            assert self._rival.turn()
        with self._leader.writing():
            yield


def test_the_real_client_sends_no_write_without_the_lease(server: Server) -> None:
    cell = Cell()
    leader = cell.leader("a")
    assert leader.turn()
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "n"}}
    server.answers["POST", JOBS] = (201, job)
    server.answers["GET", f"{JOBS}/j"] = (200, job)
    client = ApiClient(Configuration(host=f"http://127.0.0.1:{server.port}"))
    cluster = RestCluster(client, leader.writing)
    assert cluster.create(job) == job
    cell.now += lease.DURATION
    with pytest.raises(Lost):
        cluster.create(job)
    assert cluster.get("Job", "n", "j") == job
    assert [method for method, *_ in server.asked] == ["POST", "GET"]
    client.rest_client.pool_manager.clear()
