"""Events beside the looks: in order, each once, and nothing that goes wrong with one reaches a look."""

import logging
from typing import Any

import pytest
from api_server import ApiServer
from world import NAMESPACE

from anneal_operator import recorder
from anneal_operator.carry_out import event_object
from anneal_operator.cluster.errors import ApiError
from anneal_operator.decision import Event
from anneal_operator.recorder import Recorder

JOB = {"apiVersion": "anneal.dev/v1alpha1", "kind": "FineTuneJob"}
META = {"name": "tune", "namespace": NAMESPACE, "uid": "u"}


class Moody(ApiServer):
    """Answers the first calls with errors."""

    def __init__(self, *errors: ApiError) -> None:
        super().__init__()
        self.errors = list(errors)
        self.order: list[str] = []

    def create(self, obj: Any, manager: str = "anneal") -> Any:
        if self.errors:
            raise self.errors.pop(0)
        self.order.append(obj["message"])
        return super().create(obj, manager)


def event(text: str) -> dict[str, Any]:
    return event_object({**JOB, "metadata": META}, Event(False, "Said", text, text), "2026-01-01T00:00:00Z")


def test_events_are_written_in_the_order_they_were_told() -> None:
    server = Moody()
    written = Recorder(server)
    written.start()
    for number in range(20):
        written.tell(event(f"e{number}"))
    written.drain(10)
    assert server.order == [f"e{number}" for number in range(20)]


def test_one_that_is_there_already_is_told() -> None:
    server, waits = Moody(), []
    for _ in range(2):
        Recorder(server, sleep=waits.append).write(event("once"))
    assert (len(server.names("Event")), waits) == (1, [])


@pytest.mark.parametrize("status", [0, 429, 503])
def test_a_busy_server_is_asked_again(status: int) -> None:
    server, waits = Moody(ApiError(status, "Busy", "later"), ApiError(status, "Busy", "later")), []
    Recorder(server, sleep=waits.append).write(event("patient"))
    assert (server.order, waits) == (["patient"], [*recorder.PAUSES[:2]])


def test_a_refused_event_is_dropped_with_a_line(caplog: pytest.LogCaptureFixture) -> None:
    server = Moody(ApiError(403, "Forbidden", "no events here"))
    with caplog.at_level(logging.WARNING):
        Recorder(server).write(event("unheard"))
    assert server.order == []
    assert "no events here" in caplog.text
    assert "unheard" in caplog.text


def test_more_than_may_wait_are_dropped_rather_than_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recorder, "LIMIT", 2)
    full = Recorder(Moody())
    with caplog.at_level(logging.WARNING):
        for text in ("a", "b", "c"):
            full.tell(event(text))
    assert "dropped: c" in caplog.text


def test_events_give_way_to_looks_that_wait_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    server, glances, busy = Moody(), [], [True, True, False]
    written = Recorder(server, sleep=glances.append, busy=lambda: busy.pop(0))
    written.start()
    written.tell(event("later"))
    written._waiting.join()
    assert (server.order, glances) == (["later"], [recorder.GLANCE] * 2)

    monkeypatch.setattr(recorder, "LATEST", 0.0)
    late = Recorder(server, sleep=glances.append, busy=lambda: True)
    late.start()
    late.tell(event("in any case"))
    late._waiting.join()
    assert server.order == ["later", "in any case"]


def test_an_operator_that_ends_writes_its_events_whatever_waits() -> None:
    server = Moody()
    written = Recorder(server, busy=lambda: True)
    written.start()
    written.tell(event("last words"))
    written.drain(10)
    assert server.order == ["last words"]
