"""Watch streams that fall silent are noticed, whatever the process still does."""

import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from kopf._cogs.clients import errors, watching
from kopf._core.reactor import queueing

from anneal_operator import health
from anneal_operator.streams import SILENCE, Stream, Streams, divert


async def bookmarks(**_: Any) -> AsyncIterator[dict[str, str]]:
    for _ in range(3):
        yield {"type": "BOOKMARK"}


async def ignore(*_: Any) -> None:
    """Do nothing with an event."""


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_a_bookmark_is_a_sign_of_life_and_silence_is_not() -> None:
    clock = Clock()
    streams = Streams(2, clock)
    heard = streams.overhear(bookmarks)
    clock.now += SILENCE
    for resource in ("jobs", "pods"):
        assert [event async for event in heard(resource=resource, namespace=None)] == [
            {"type": "BOOKMARK"}
        ] * 3
    assert streams.trouble() == ""
    clock.now += SILENCE - 1
    assert [event async for event in heard(resource="pods", namespace=None)]
    clock.now += 2
    assert streams.trouble() == "watches not heard of: jobs in all namespaces for 181 s"


def broken(error: type[errors.APIError], status: int) -> Stream:
    async def stream(**_: Any) -> AsyncIterator[dict[str, str]]:
        yield {"type": "BOOKMARK"}
        raise error(None, status=status, headers={})

    return stream


async def test_a_stream_that_an_error_ends_is_noticed_at_once() -> None:
    streams = Streams(1, Clock())
    heard = streams.overhear(broken(errors.APIForbiddenError, 403))
    with pytest.raises(errors.APIForbiddenError):
        assert [event async for event in heard(resource="pods", namespace="a")]
    assert streams.trouble() == "watches ended: pods in a by APIForbiddenError"
    assert [event async for event in streams.overhear(bookmarks)(resource="pods", namespace="a")]
    assert streams.trouble() == ""


async def test_throttling_ends_no_stream() -> None:
    streams = Streams(1, Clock())
    heard = streams.overhear(broken(errors.APITooManyRequestsError, 429))
    with pytest.raises(errors.APITooManyRequestsError):
        assert [event async for event in heard(resource="pods", namespace="a")]
    assert streams.trouble() == ""


def test_a_stream_that_never_came_up_is_noticed() -> None:
    clock = Clock()
    streams = Streams(6, clock)
    assert streams.trouble() == ""
    clock.now += SILENCE + 1
    assert streams.trouble() == "watches not heard of: 6 never"


def test_kopf_opens_its_streams_where_we_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("watch_objs", "infinite_watch")
    originals = [getattr(watching, name) for name in names]
    for name, original in zip(names, originals, strict=True):
        monkeypatch.setattr(watching, name, original)
    Streams(1).install(ignore)
    assert [getattr(watching, name) for name in names] != originals
    assert "watch_objs" in watching.continuous_watch.__code__.co_names
    assert "infinite_watch" in queueing.watcher.__code__.co_names


async def test_objects_are_ours_and_bookmarks_are_kopfs() -> None:
    told: list[tuple[str, str | None, Mapping[str, Any] | None]] = []

    async def sink(plural: str, namespace: str | None, event: Mapping[str, Any] | None) -> None:
        told.append((plural, namespace, event))

    listed, added = {"type": None, "object": {}}, {"type": "ADDED", "object": {}}
    mark = {"type": "BOOKMARK", "object": {}}

    async def stream(**_: Any) -> AsyncIterator[Any]:
        for event in (listed, watching.Bookmark.LISTED, added, mark):
            yield event

    jobs = SimpleNamespace(plural="jobs")
    left = [event async for event in divert(stream, sink)(resource=jobs, namespace="team")]
    assert left == [watching.Bookmark.LISTED, mark]
    assert told == [("jobs", "team", listed), ("jobs", "team", None), ("jobs", "team", added)]


def test_the_probe_says_what_is_wrong() -> None:
    wrong = [""]
    server = health.serve([lambda: wrong[0]], 0)
    url = f"http://127.0.0.1:{server.server_address[1]}/healthz"
    with urllib.request.urlopen(url, timeout=5) as answer:
        assert answer.read() == b"ok"
    wrong[0] = "the queue does not run"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, timeout=5)
    with refused.value as answer:
        assert answer.code == 500
        assert answer.read() == b"the queue does not run"
    server.shutdown()
    server.server_close()
