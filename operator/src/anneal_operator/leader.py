"""Leads or stands by: gets the Lease, keeps it, and lets nothing be written without it.

A process that was frozen past its Lease ends with its first thought: the time left is looked at right before each
write, by a clock that goes on while a process or the machine sleeps. What no client can rule out is a freeze between
that look and the packet; such a write is still guarded by its resourceVersion, UID or name.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NoReturn, Protocol

from anneal_operator import lease
from anneal_operator.cluster.errors import ApiError, Conflict
from anneal_operator.decision import Object
from anneal_operator.lease import Sighting

log = logging.getLogger(__name__)
EXIT_LOST = 75
"""Exit code of a leader that has lost its Lease: try again."""


class Leases(Protocol):
    """What a Lease needs of a cluster."""

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return an object as it is now, or None."""

    def create(self, obj: Object) -> Object:
        """Make an object; raises AlreadyExists."""

    def replace(self, obj: Object) -> Object:
        """Write the whole object; raises Conflict if it is no longer at that resourceVersion."""


def awake_and_asleep() -> float:
    """Return seconds that pass whatever happens to this process or its machine."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def end_at_once() -> NoReturn:
    """End the process without another thought: nothing it still has in mind may be written."""
    os._exit(EXIT_LOST)


class Leader:
    """One process's part in the election; may be asked from any thread."""

    def __init__(
        self,
        cluster: Leases,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float] = awake_and_asleep,
        lost: Callable[[], object] = end_at_once,
    ) -> None:
        self._cluster = cluster
        self._place = (namespace, name)
        self._identity = identity
        self._clock = clock
        self._lost = lost
        self._seen: Sighting | None = None
        self._until: float | None = None
        """When the Lease runs out; None before it is held and after it is given back."""
        self._writing = 0
        self._quiet = threading.Condition()

    @property
    def left(self) -> float:
        """Seconds for which this process leads; below zero when it does not."""
        return -1.0 if self._until is None else self._until - self._clock()

    def turn(self) -> bool:
        """Try once to get or to keep the Lease, and return whether that has come off."""
        asked = self._clock()
        try:
            kept = self._try()
        except ApiError as error:
            log.warning("the Lease %s/%s: %s", *self._place, error)
            if isinstance(error, Conflict):
                self._seen = None
            return False
        if kept:
            self._until = asked + lease.DURATION
        return kept

    def _try(self) -> bool:
        leads = self._until is not None
        if not leads or self._seen is None:
            self._look()
        if self._seen is None:
            new = lease.made(*self._place, self._identity, datetime.now(UTC))
            self._seen = Sighting(self._cluster.create(new), self._clock())
        elif not lease.free(self._seen, self._identity, self._clock()):
            return False
        else:
            new = lease.held(self._seen.lease, self._identity, datetime.now(UTC))
            self._seen = Sighting(self._cluster.replace(new), self._clock())
        return True

    def _look(self) -> None:
        found = self._cluster.get("Lease", *self._place)
        self._seen = lease.sight(self._seen, found, self._clock()) if found else None

    def lead(self) -> None:
        """Stand by until this process leads, then keep the Lease from a thread."""
        while not self.turn():
            time.sleep(lease.RENEW)
        log.info("leading as %s", self._identity)
        threading.Thread(target=self._keep, name="lease", daemon=True).start()

    def _keep(self) -> None:
        while self._until is not None:
            time.sleep(lease.RENEW)
            self.keep()

    def keep(self) -> None:
        """Renew the Lease; end the process when it has run out, before or after the try."""
        if self._until is not None and (self.left <= 0 or (not self.turn() and self.left <= 0)):
            log.critical("the Lease %s/%s is lost", *self._place)
            self._lost()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around every write: refuse it when the Lease may run out before it has ended."""
        with self._quiet:
            self._check()
            self._writing += 1
        try:
            yield
        finally:
            with self._quiet:
                self._writing -= 1
                self._quiet.notify_all()

    def _check(self) -> None:
        if self._until is not None and self.left <= 0:
            self._lost()
        if self.left < lease.MARGIN:
            raise ApiError(503, "NotLeading", f"{max(0.0, self.left):.1f} s of the Lease are left")

    def resign(self) -> None:
        """Write nothing more, wait for what is under way, and let another lead at once."""
        with self._quiet:
            self._until = None
            ended = self._quiet.wait_for(lambda: self._writing == 0, timeout=lease.DURATION)
        if self._seen is None or not ended:
            return
        try:
            self._cluster.replace(lease.released(self._seen.lease, datetime.now(UTC)))
        except ApiError as error:
            log.warning("the Lease could not be given back and will run out: %s", error)
