"""Which replica takes a request, and who waits for one.

A request goes to the ready replica with the fewest outstanding tokens among those with a free slot; the others
wait here, in order, so that a replica's own queue stays short and a new replica is used at once. Two corrections:
what a replica reports beyond this gateway's own requests is other gateways' work and counts as well, and the part of
a prompt that a replica has seen before need not be computed there again and is taken off.
"""

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from anneal_serving.gateway.errors import ApiError

REST_SECONDS = 1.0
REST_LIMIT = 15.0
REPORT_SECONDS = 2.0
"""How long a replica's report counts."""
PREFIX_BLOCK = 64
"""Tokens of a block of a prompt; a replica's prefix cache has smaller ones."""
PREFIX_BLOCKS = 32
PREFIXES = 65_536
KV_FULL = 0.95
_SMOOTHING = 0.2


class Moved(Exception):
    """The routes have changed while the request waited, or its version has no replica left; it starts over."""


@dataclass
class Replica:
    """What the gateway knows of one replica."""

    address: str
    tokens: int = 0
    """Outstanding: prompt tokens and tokens still to be generated."""
    requests: int = 0
    failures: int = 0
    rests_until: float = 0.0
    others: int = 0
    """Requests of other gateways, by its last report."""
    kv_used: float = 0.0
    reported_at: float = -math.inf


def prefix_of(ids: Sequence[int]) -> tuple[int, ...]:
    """Return a hash for every whole block of a prompt, each of everything up to its end."""
    found, before = [], 0
    for start in range(0, min(len(ids), PREFIX_BLOCK * PREFIX_BLOCKS) - PREFIX_BLOCK + 1, PREFIX_BLOCK):
        before = hash((before, tuple(ids[start : start + PREFIX_BLOCK])))
        found.append(before)
    return tuple(found)


@dataclass(eq=False)
class Waiter:
    """A request in the queue."""

    tokens: int
    prefix: tuple[int, ...]
    future: asyncio.Future["Lease"]


class Lease:
    """A request's hold on a replica."""

    def __init__(self, balancer: "Balancer", replica: Replica, tokens: int, now: float) -> None:
        self._balancer = balancer
        self._replica = replica
        self._tokens = tokens
        self._since = now
        self._held = True
        replica.tokens += tokens
        replica.requests += 1

    @property
    def address(self) -> str:
        """host:port of the replica."""
        return self._replica.address

    def progress(self, tokens: int) -> None:
        """Note that `tokens` have arrived."""
        done = min(tokens, self._tokens)
        self._tokens -= done
        self._replica.tokens -= done
        self._replica.failures = 0

    def release(self, *, failed: bool = False) -> None:
        """Give the slot back; a replica that failed rests for a while. A second call does nothing."""
        if not self._held:
            return
        self._held = False
        self._replica.tokens -= self._tokens
        self._replica.requests -= 1
        self._balancer.released(self._replica, self._since, failed)


class Balancer:
    """The replicas of one version and the queue in front of them.

    Args:
        slots: sequences one replica runs at once.
        max_queue: requests that may wait.
    """

    def __init__(self, slots: int, max_queue: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._slots = slots
        self.max_queue = max_queue
        self._clock = clock
        self._replicas: dict[str, Replica] = {}
        self._waiting: deque[Waiter] = deque()
        self._prefixes: OrderedDict[int, str] = OrderedDict()
        self._seconds = 1.0
        self._size = 0.0
        self._closed = False

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def addresses(self) -> list[str]:
        """Ready replicas."""
        return sorted(self._replicas)

    def update(self, addresses: set[str]) -> None:
        """Take the ready replicas; what runs on one that left goes on."""
        kept = {address: self._replicas.get(address) or Replica(address) for address in sorted(addresses)}
        self._replicas = kept
        self._dispatch()

    def report(self, address: str, requests: int, kv_used: float) -> None:
        """Take what a replica says it holds: requests waiting and active, and the used share of its KV cache."""
        replica = self._replicas.get(address)
        if replica is not None:
            replica.others = max(0, requests - replica.requests)
            replica.kv_used = kv_used
            replica.reported_at = self._clock()
            self._dispatch()

    async def acquire(self, tokens: int, timeout: float, prefix: tuple[int, ...] = ()) -> Lease:
        """Return a lease for a request of `tokens`, waiting for a slot up to `timeout` seconds.

        Args:
            prefix: the prompt's, of `prefix_of`.

        Raises:
            ApiError: 429 when the queue is full, 503 when no slot came free in time.
            Moved: the balancer was closed.
        """
        if self._closed:
            raise Moved
        if not self._waiting and (replica := self._pick(prefix)):
            return self._lease(replica, tokens, prefix)
        if len(self._waiting) >= self.max_queue:
            raise self._full()
        entry = Waiter(tokens, prefix, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        return await self._wait(entry, timeout)

    def close(self) -> None:
        """Send everyone who waits, and who still comes, to the new routes."""
        self._closed = True
        self.move()

    def move(self) -> None:
        """Send everyone who waits to choose a version anew."""
        for waiter in self._waiting:
            if not waiter.future.done():
                waiter.future.set_exception(Moved())
        self._waiting.clear()

    def released(self, replica: Replica, since: float, failed: bool) -> None:
        """Take a slot back (called by Lease)."""
        now = self._clock()
        if failed:
            delay = min(REST_SECONDS * 2**replica.failures, REST_LIMIT)
            replica.failures += 1
            replica.rests_until = now + delay
            asyncio.get_running_loop().call_later(delay, self._dispatch)
        else:
            self._seconds += _SMOOTHING * (now - since - self._seconds)
        self._dispatch()

    async def _wait(self, entry: Waiter, timeout: float) -> Lease:
        future = entry.future
        try:
            async with asyncio.timeout(timeout):
                return await future
        except BaseException as error:
            self._leave(entry)
            if isinstance(error, TimeoutError):
                raise self._too_late() from None
            raise

    def _leave(self, entry: Waiter) -> None:
        """Leave the queue; a lease that came in the same moment is given back."""
        future = entry.future
        if entry in self._waiting:
            self._waiting.remove(entry)
        elif not future.cancelled() and future.exception() is None:
            future.result().release()

    def _dispatch(self) -> None:
        while self._waiting and (replica := self._pick(self._waiting[0].prefix)):
            waiter = self._waiting.popleft()
            if not waiter.future.done():
                waiter.future.set_result(self._lease(replica, waiter.tokens, waiter.prefix))

    def _lease(self, replica: Replica, tokens: int, prefix: tuple[int, ...]) -> Lease:
        for block in prefix:
            self._prefixes[block] = replica.address
            self._prefixes.move_to_end(block)
        while len(self._prefixes) > PREFIXES:
            self._prefixes.popitem(last=False)
        self._size += (_SMOOTHING if self._size else 1.0) * (tokens - self._size)
        return Lease(self, replica, tokens, self._clock())

    def _pick(self, prefix: tuple[int, ...]) -> Replica | None:
        now = self._clock()
        home, seen = self._seen(prefix)

        def cost(replica: Replica) -> tuple[bool, float, int, str]:
            others = self._others(replica, now)
            tokens = replica.tokens + others * self._size - (seen if replica.address == home else 0)
            return replica.kv_used >= KV_FULL, tokens, replica.requests + others, replica.address

        return min((r for r in self._replicas.values() if self._free(r, now)), key=cost, default=None)

    def _free(self, replica: Replica, now: float) -> bool:
        return replica.requests + self._others(replica, now) < self._slots and replica.rests_until <= now

    def _others(self, replica: Replica, now: float) -> int:
        return replica.others if now - replica.reported_at <= REPORT_SECONDS else 0

    def _seen(self, prefix: tuple[int, ...]) -> tuple[str, int]:
        """Return the replica that saw most of a prompt last, and how many tokens of it."""
        for count in range(len(prefix), 0, -1):
            if (home := self._prefixes.get(prefix[count - 1])) is not None:
                return home, count * PREFIX_BLOCK
        return "", 0

    def _full(self) -> ApiError:
        seconds = retry_after(len(self._waiting), self._slots * len(self._replicas), self._seconds)
        message = f"{len(self._waiting)} requests wait already (spec.gateway.maxQueue); try again later"
        return ApiError(429, message, code="queue_full", retry_after=seconds)

    def _too_late(self) -> ApiError:
        message = (
            "no slot came free in time (spec.gateway.requestTimeoutSeconds)"
            if self._replicas
            else "no replica is ready; the model is starting or its replicas have failed"
        )
        return ApiError(503, message, code="not_ready", retry_after=5)


def retry_after(waiting: int, slots: int, seconds: float) -> int:
    """Return whole seconds until a queue of `waiting` is through, at `seconds` a request in each slot."""
    return max(1, min(600, math.ceil((waiting + 1) * seconds / max(1, slots))))
