"""Which resource to look at, and when: keys with due times, one worker a key, a bounded number of workers.

Where more is due than there are workers, a look with patience gives way to what came up to so many seconds after it.
A key that is asked for while a worker has it is looked at once more afterwards, however often it was asked for. An
error is tried again with growing delays; events do not cut a delay short, or a failing key would spin.
"""

import asyncio
import heapq
import logging
import time
from collections.abc import Awaitable, Callable, Hashable
from datetime import datetime
from typing import Generic, NamedTuple, TypeVar

log = logging.getLogger(__name__)
K = TypeVar("K", bound=Hashable)
FIRST_DELAY, LONGEST_DELAY = 0.5, 120.0
Work = Callable[[K], Awaitable[datetime | None]]


class Turn(NamedTuple):
    """When a key may be looked at, and its place among those that may."""

    due: float
    place: float

    def sooner(self, other: "Turn | None") -> "Turn":
        """Return the earlier of both, in both."""
        return self if other is None else Turn(min(self.due, other.due), min(self.place, other.place))


class Queue(Generic[K]):
    """Runs `work(key)` when a key is due; `work` returns when it wants to be called again."""

    def __init__(self, work: Work[K], clock: Callable[[], datetime], workers: int = 8) -> None:
        self._work = work
        self._clock = clock
        self._slots = asyncio.Semaphore(workers)
        self._turns: dict[K, Turn] = {}
        self._later: list[tuple[float, int, K]] = []
        """By due time; what no longer agrees with `_turns` is passed over, here and among the ready."""
        self._ready: list[tuple[float, int, K]] = []
        """What is due, by place."""
        self._order = 0
        self._busy: set[K] = set()
        self._again: dict[K, Turn] = {}
        """Keys that were asked for while a worker had them, and when to look again."""
        self._failures: dict[K, int] = {}
        self._woken = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.last_turn = self._time()

    def add(self, key: K, delay: float = 0.0, patience: float = 0.0) -> None:
        """Look at `key` after `delay` seconds, or sooner if that is planned already; it can wait `patience` more."""
        due = self._time() + delay
        turn = Turn(due, due + patience)
        if key in self._busy:
            self._again[key] = turn.sooner(self._again.get(key))
        elif key not in self._failures:
            self._plan(key, turn)

    @property
    def depth(self) -> int:
        """How many keys are due and wait for a worker; may be asked from any thread."""
        now = time.monotonic()  # which is the loop's clock
        return sum(turn.due <= now for turn in list(self._turns.values()))

    def _plan(self, key: K, turn: Turn) -> None:
        planned = self._turns.get(key)
        turn = turn.sooner(planned)
        if turn != planned:
            self._turns[key] = turn
            heapq.heappush(self._later, (turn.due, self._next_order(), key))
            self._woken.set()

    def _next_order(self) -> int:
        self._order += 1
        return self._order

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
            self._ripen()
            if (key := self._first()) is not None:
                return key
            wait = self._later[0][0] - self._time() if self._later else 1.0
            try:
                await asyncio.wait_for(self._woken.wait(), timeout=min(wait, 1.0))
            except TimeoutError:
                self.last_turn = self._time()

    def _ripen(self) -> None:
        """Move what is due to its place."""
        now = self._time()
        while self._later and self._later[0][0] <= now:
            due, order, key = heapq.heappop(self._later)
            turn = self._turns.get(key)
            if turn and turn.due == due:
                heapq.heappush(self._ready, (turn.place, order, key))

    def _first(self) -> K | None:
        """Take the first of the ready."""
        while self._ready:
            place, _, key = heapq.heappop(self._ready)
            turn = self._turns.get(key)
            if turn and turn.place == place and turn.due <= self._time():
                del self._turns[key]
                return key
        return None

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
            due = self._time() + delay
            self._plan(key, Turn(due, due))
        if key in self._again:
            self._plan(key, self._again.pop(key))

    @staticmethod
    def _time() -> float:
        return asyncio.get_running_loop().time()
