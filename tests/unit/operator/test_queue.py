"""The queue: one worker a key, nothing lost, nothing twice, errors with growing delays."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from anneal_operator.queue import Queue


def now() -> datetime:
    return datetime.now(UTC)


@asynccontextmanager
async def running(work: Callable[[str], Awaitable[datetime | None]], workers: int = 4):
    queue: Queue[str] = Queue(work, now, workers)
    task = asyncio.create_task(queue.run())
    yield queue
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_key_asked_for_often_is_looked_at_once() -> None:
    seen: list[str] = []

    async def work(key: str) -> None:
        seen.append(key)

    async with running(work) as queue:
        for _ in range(50):
            queue.add("a")
        await asyncio.sleep(0.05)
    assert seen == ["a"]


async def test_a_key_asked_for_while_busy_is_looked_at_once_more() -> None:
    seen: list[str] = []
    together = 0

    async def work(key: str) -> None:
        nonlocal together
        together += 1
        assert together == 1
        await asyncio.sleep(0.03)
        together -= 1
        seen.append(key)

    async with running(work) as queue:
        queue.add("a")
        await asyncio.sleep(0.01)
        for _ in range(5):
            queue.add("a")
        await asyncio.sleep(0.15)
    assert seen == ["a", "a"]


async def test_no_more_workers_than_allowed() -> None:
    together = most = 0

    async def work(key: str) -> None:
        nonlocal together, most
        together += 1
        most = max(most, together)
        await asyncio.sleep(0.01)
        together -= 1

    async with running(work, workers=3) as queue:
        for number in range(12):
            queue.add(str(number))
        await asyncio.sleep(0.15)
    assert most == 3


async def test_a_due_time_is_kept_and_the_sooner_one_wins() -> None:
    seen: list[float] = []
    start = asyncio.get_running_loop().time()

    async def work(key: str) -> datetime | None:
        seen.append(asyncio.get_running_loop().time() - start)
        return now() + timedelta(seconds=0.08) if len(seen) == 1 else None

    async with running(work) as queue:
        queue.add("a", 5.0)
        queue.add("a", 0.02)
        await asyncio.sleep(0.3)
    assert len(seen) == 2
    assert 0.02 <= seen[0] < 0.07
    assert seen[1] - seen[0] >= 0.07


async def test_errors_are_tried_again_later_and_events_do_not_hasten_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("anneal_operator.queue.FIRST_DELAY", 0.06)
    seen: list[float] = []

    async def work(key: str) -> None:
        seen.append(asyncio.get_running_loop().time())
        if len(seen) < 3:
            raise RuntimeError("no")

    async with running(work) as queue:
        queue.add("a")
        for _ in range(20):
            await asyncio.sleep(0.005)
            queue.add("a")
        await asyncio.sleep(0.2)
        first, second, third, *_ = seen
        assert second - first >= 0.05
        assert third - second >= 0.11
        count = len(seen)
        queue.add("a")
        await asyncio.sleep(0.03)
        assert len(seen) == count + 1


async def test_depth_is_what_is_due_and_waits_not_what_comes_later() -> None:
    release = asyncio.Event()

    async def work(key: str) -> None:
        await release.wait()

    async with running(work, workers=1) as queue:
        queue.add("busy")
        await asyncio.sleep(0.01)
        queue.add("waits")
        queue.add("later", delay=60)
        assert await asyncio.to_thread(lambda: queue.depth) == 1
        release.set()


async def test_news_while_busy_waits_for_its_time_and_cuts_no_delay_of_an_error_short() -> None:
    seen: list[float] = []
    loop = asyncio.get_running_loop()

    async def work(key: str) -> None:
        seen.append(loop.time())
        await asyncio.sleep(0.01)
        if key == "bad":
            raise ValueError(key)

    async with running(work) as queue:
        queue.add("a")
        await asyncio.sleep(0.005)
        queue.add("a", 0.1)
        await asyncio.sleep(0.15)
        assert len(seen) == 2
        assert seen[1] - seen[0] > 0.1
        queue.add("bad")
        await asyncio.sleep(0.03)
        queue.add("bad", 0.01)
        await asyncio.sleep(0.1)
    assert len(seen) == 3


async def test_a_look_with_patience_gives_way_while_workers_are_short_but_not_for_ever() -> None:
    seen: list[str] = []

    async def work(key: str) -> None:
        seen.append(key)
        await asyncio.sleep(0)

    async with running(work, workers=1) as queue:
        queue.add("patient", patience=60.0)
        queue.add("less", patience=30.0)
        for number in range(3):
            queue.add(f"new-{number}")
        await asyncio.sleep(0.05)
    assert seen == ["new-0", "new-1", "new-2", "less", "patient"]


async def test_patience_delays_nothing_while_there_are_workers() -> None:
    seen: list[str] = []

    async def work(key: str) -> None:
        seen.append(key)

    async with running(work) as queue:
        queue.add("a", patience=60.0)
        await asyncio.sleep(0.05)
    assert seen == ["a"]


async def test_urgent_news_takes_patience_from_a_look_that_waits() -> None:
    seen: list[str] = []
    release = asyncio.Event()

    async def work(key: str) -> None:
        seen.append(key)
        if key == "busy":
            await release.wait()

    async with running(work, workers=1) as queue:
        queue.add("busy")
        await asyncio.sleep(0.01)
        queue.add("failed", patience=60.0)
        queue.add("new", patience=1.0)
        queue.add("failed")
        release.set()
        await asyncio.sleep(0.05)
    assert seen == ["busy", "failed", "new"]
