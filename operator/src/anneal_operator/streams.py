"""kopf's watch streams: when each was last heard of, bookmarks included, and what they say, at first hand.

A watcher can die or hang while the process lives on and its probe stays green. The API server sends a bookmark about
every minute, so a stream that is silent for longer than SILENCE is dead, however quiet the cluster is.

What kopf does with an event on the way to a handler (a task an object, three copies of its body) took two thirds of the
operator's time, and serves kinds of handlers of which there are none here. This is the one place that reaches into it
(kopf 1.45, `clients.watching`): `watch_objs` is one connection, `infinite_watch` all of them, lists included. What is
left was half JSON, which orjson reads several times as fast.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

import orjson
from kopf._cogs.clients import api, errors, watching

SILENCE = 180.0
"""Seconds; two bookmarks lost, and a reconnection."""
Stream = Callable[..., AsyncIterator[Any]]
Sink = Callable[[str, str | None, Mapping[str, Any] | None], Awaitable[None]]
"""Is told the plural, the stream's namespace, and an event; None when a list is complete."""


class Streams:
    """Ages of `expected` streams."""

    def __init__(self, expected: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._expected = expected
        self._clock = clock
        self._began = clock()
        self._heard: dict[str, float] = {}
        self._ended: dict[str, str] = {}

    def install(self, sink: Sink) -> None:
        """Listen in on all streams that kopf opens from now on, and take what they say."""
        api.json = orjson  # type: ignore[attr-defined]
        watching.watch_objs = self.overhear(watching.watch_objs)
        watching.infinite_watch = divert(watching.infinite_watch, sink)

    def overhear(self, stream: Stream) -> Stream:
        """Return a stream that passes everything on and remembers when."""

        async def watch_objs(**kwargs: Any) -> AsyncIterator[Any]:
            name = f"{kwargs['resource']} in {kwargs['namespace'] or 'all namespaces'}"
            try:
                async with aclosing(stream(**kwargs)) as events:  # type: ignore[type-var]
                    async for event in events:
                        self._heard[name] = self._clock()
                        self._ended.pop(name, None)
                        yield event
            except errors.APITooManyRequestsError:
                raise  # the one error after which kopf opens the stream again
            except Exception as error:
                self._ended[name] = f"{name} by {type(error).__name__}"
                raise

        return watch_objs

    def trouble(self) -> str:
        """Return which streams are dead; empty when none is."""
        if self._ended:
            return f"watches ended: {', '.join(sorted(self._ended.values()))}"
        now = self._clock()
        silent = [f"{name} for {now - at:.0f} s" for name, at in self._heard.items() if now - at > SILENCE]
        if len(self._heard) < self._expected and now - self._began > SILENCE:
            silent.append(f"{self._expected - len(self._heard)} never")
        return f"watches not heard of: {', '.join(sorted(silent))}" if silent else ""


def divert(stream: Stream, sink: Sink) -> Stream:
    """Return a stream that gives events to `sink` and leaves the bookmarks to kopf."""

    async def infinite_watch(**kwargs: Any) -> AsyncIterator[Any]:
        plural, namespace = kwargs["resource"].plural, kwargs["namespace"]
        async with aclosing(stream(**kwargs)) as events:  # type: ignore[type-var]
            async for event in events:
                if event is watching.Bookmark.LISTED:
                    await sink(plural, namespace, None)
                if isinstance(event, Mapping) and event["type"] != "BOOKMARK":
                    await sink(plural, namespace, event)
                else:
                    yield event

    return infinite_watch
