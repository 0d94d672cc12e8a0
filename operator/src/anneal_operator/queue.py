"""Which resource to look at, and when: keys with due times, one worker a key, a bounded number of workers.

A key that is asked for while a worker has it is looked at once more afterwards, however often it was asked for. An
error is tried again with growing delays; events do not cut a delay short, or a failing key would spin.
"""

import asyncio
import heapq
import logging
import time
from collections.abc import Awaitable, Callable, Hashable
from datetime import datetime
from typing import Generic, TypeVar

log = logging.getLogger(__name__)
K = TypeVar("K", bound=Hashable)
FIRST_DELAY, LONGEST_DELAY = 0.5, 120.0
Work = Callable[[K], Awaitable[datetime | None]]


class Queue(Generic[K]):
    """Runs `work(key)` when a key is due; `work` returns when it wants to be called again."""

    def __init__(self, work: Work[K], clock: Callable[[], datetime], workers: int = 8) -> None:
        self._work = work
        self._clock = clock
        self._slots = asyncio.Semaphore(workers)
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = 0
        self._busy: set[K] = set()
        self._again: dict[K, float] = {}
        """Keys that were asked for while a worker had them, and when to look again."""
        self._failures: dict[K, int] = {}
        self._woken = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.last_turn = self._time()

    def add(self, key: K, delay: float = 0.0) -> None:
        """Look at `key` after `delay` seconds, or sooner if that is planned already."""
        due = self._time() + delay
        if key in self._busy:
            self._again[key] = min(due, self._again.get(key, due))
        elif key not in self._failures:
            self._plan(key, due)

    @property
    def depth(self) -> int:
        """How many keys are due and wait for a worker; may be asked from any thread."""
        now = time.monotonic()  # which is the loop's clock
        return sum(due <= now for due in list(self._due.values()))

    def _plan(self, key: K, due: float) -> None:
        if key in self._due and self._due[key] <= due:
            return
        self._due[key] = due
        self._order += 1
        heapq.heappush(self._heap, (due, self._order, key))
        self._woken.set()

    async def run(self) -> None:
        """Hand out work until cancelled."""
        try:
            while True:
                self.last_turn = self._time()
                await self._slots.acquire()
                key = await self._next()
                self._start(key)
        finally:
            for task in self._tasks:
                task.cancel()

    async def _next(self) -> K:
        while True:
            self._woken.clear()
            wait = self._until_due()
            if wait is not None and wait <= 0:
                due, _, key = heapq.heappop(self._heap)
                if self._due.get(key) == due and key not in self._busy:
                    del self._due[key]
                    return key
                continue
            try:
                await asyncio.wait_for(self._woken.wait(), timeout=1.0 if wait is None else min(wait, 1.0))
            except TimeoutError:
                self.last_turn = self._time()

    def _until_due(self) -> float | None:
        return self._heap[0][0] - self._time() if self._heap else None

    def _start(self, key: K) -> None:
        self._busy.add(key)
        task = asyncio.create_task(self._turn(key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _turn(self, key: K) -> None:
        try:
            again = await self._work(key)
            self._failures.pop(key, None)
            delay = None if again is None else max(0.0, (again - self._clock()).total_seconds())
        except Exception:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            delay = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(failures - 1, 16))
            log.exception("%s: failed %d times in a row, again in %.1f s", key, failures, delay)
            self._again.pop(key, None)
        finally:
            self._busy.discard(key)
            self._slots.release()
        if delay is not None:
            self._plan(key, self._time() + delay)
        if key in self._again:
            self._plan(key, self._again.pop(key))

    @staticmethod
    def _time() -> float:
        return asyncio.get_running_loop().time()
