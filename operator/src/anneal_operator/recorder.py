"""Writes Events beside the looks that tell them, as every controller's event recorder does.

An Event may come a moment after what it tells of: in a burst, what is to run is written first. Its name follows from
what it says, so one that is there already is told. What no try gets across is dropped with a line in the log; whatever
an Event says, a condition of the status says too.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

from anneal_operator.cluster.errors import AlreadyExists, ApiError
from anneal_operator.cluster.interface import Cluster
from anneal_operator.decision import Object

log = logging.getLogger(__name__)
LIMIT = 10_000
"""Events that may wait; further ones are dropped."""
PAUSES = (0.5, 2.0, 8.0)
"""Seconds between tries when the API server is busy or away."""
LATEST = 30.0
"""Seconds for which an Event gives way to looks that wait."""
GLANCE = 0.2
"""Seconds between looks at whether any do."""


class Recorder:
    """Takes Events from any thread and writes them, one after the other, in the order they came."""

    def __init__(
        self,
        cluster: Cluster,
        pauses: Sequence[float] = PAUSES,
        sleep: Callable[[float], object] = time.sleep,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._cluster = cluster
        self._busy = busy
        self._ending = False
        self._pauses = pauses
        self._sleep = sleep
        self._waiting: queue.Queue[tuple[float, Object]] = queue.Queue(LIMIT)

    def start(self) -> None:
        """Write from a thread from now on."""
        threading.Thread(target=self._work, name="events", daemon=True).start()

    def tell(self, event: Object) -> None:
        """Have an Event written soon."""
        try:
            self._waiting.put_nowait((time.monotonic(), event))
        except queue.Full:
            log.warning("%d events wait: dropped: %s", LIMIT, event["message"])

    def write(self, event: Object) -> None:
        """Write an Event now."""
        for pause in (*self._pauses, None):
            try:
                self._cluster.create(event)
            except AlreadyExists:
                return
            except ApiError as error:
                if pause is not None and _passes(error):
                    self._sleep(pause)
                    continue
                log.warning("an event could not be written: %s: %s", error, event["message"])
            return

    def drain(self, seconds: float) -> None:
        """Wait so long at most for what has been told to be written, which gives way to nothing any more."""
        self._ending = True
        end = time.monotonic() + seconds
        while self._waiting.unfinished_tasks and time.monotonic() < end:
            self._sleep(0.05)

    def _work(self) -> None:
        while True:
            told, event = self._waiting.get()
            try:
                self._give_way(told + LATEST)
                self.write(event)
            except Exception:
                log.exception("an event was not written: %s", event["message"])
            finally:
                self._waiting.task_done()

    def _give_way(self, until: float) -> None:
        while self._busy() and not self._ending and time.monotonic() < until:
            self._sleep(GLANCE)


def _passes(error: ApiError) -> bool:
    """Whether a try later on may do better: no answer, too many requests, a server in trouble."""
    return error.status in (0, 429) or error.status >= 500
