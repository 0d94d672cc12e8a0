"""One round of one side: objects are let loose, and the audit log says when everything there has to be is there."""

import asyncio
import functools
import os
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from operator_scale import audit, plane
from operator_scale.audit import Audit, Write
from operator_scale.plane import Daemon, Object, Plane

STATUS = ("finetunejobs/status", "trainjobs/status")
PATIENCE = 400.0
Act = Callable[[Plane, Object], Coroutine[Any, Any, None]]


@dataclass
class Round:
    """What was measured."""

    latencies: list[float]
    """Seconds from the write that lets an object go on to its training Job and its Service."""
    drained: float
    """Seconds from the first such write to the last Job and Service."""
    writes: Counter[str]
    """By verb and resource, of the side's controllers."""
    statuses: list[int]
    """Writes of each object's own status."""
    cpu: float
    peak: float
    """MiB, of the side's processes together."""
    server: float
    """CPU seconds of the API server and etcd."""
    load: float
    """Processes that wanted a core as the round began, over a minute: who else was at work on the machine."""
    reconciles: float = 0.0

    @property
    def objects(self) -> int:
        return len(self.latencies)

    @property
    def rate(self) -> float:
        return self.objects / self.drained

    def latency(self, share: float) -> float:
        return audit.percentile(self.latencies, share)


async def run(
    place: Plane, users: Sequence[str], act: Act, objects: list[Object], pace: float | None = None
) -> Round:
    """Let `objects` loose, at once or so many a second, and measure until all that follows is there."""
    log = Audit(plane.PLACE.logs / "audit.log").read()
    log.writes.clear()
    before, load = {name: daemon.cpu for name, daemon in looked(place).items()}, os.getloadavg()[0]
    if pace is None:
        await plane.each(functools.partial(act, place), objects)
    else:
        await paced(place, act, objects, pace)
    await place.until("Jobs, Services and pods", lambda: whole(log.read(), len(objects)), PATIENCE)
    await quiet(log, users)
    return measured(place, log, users, before, load)


async def paced(place: Plane, act: Act, objects: list[Object], pace: float) -> None:
    """Let so many objects loose a second, whether or not the earlier ones are done."""
    tasks = []
    for obj in objects:
        tasks.append(asyncio.create_task(act(place, obj)))
        await asyncio.sleep(1 / pace)
    await asyncio.gather(*tasks)


async def quiet(log: Audit, users: Sequence[str], seconds: float = 2.0) -> None:
    """Wait until the side's controllers have written nothing for a while."""
    known = -1
    while known != (known := sum(len(log.of(user)) for user in users)):
        await asyncio.sleep(seconds)
        log.read()


def looked(place: Plane) -> dict[str, Daemon]:
    """Return all processes with what they have used by now."""
    for daemon in place.daemons.values():
        daemon.look()
    return dict(place.daemons)


def let_go(log: Audit) -> dict[str, Write]:
    """Return the write of the driver that let each object go on."""
    writes = [write for write in log.of("driver") if write.resource in ("finetunejobs", "trainjobs")]
    return {write.owner: write for write in reversed(writes)}


def whole(log: Audit, objects: int) -> bool:
    """Return whether every object has its Job and its Service, and every Job its pod."""
    return min(len(log.first("jobs")), len(log.first("services")), pods(log)) >= objects


def pods(log: Audit) -> int:
    """Return how many pods were made."""
    return sum(write.resource == "pods" and write.verb == "create" for write in log.writes)


def measured(place: Plane, log: Audit, users: Sequence[str], before: dict[str, float], load: float) -> Round:
    """Return the figures of what the log and the processes tell."""
    began, jobs, services = let_go(log), log.first("jobs"), log.first("services")
    ended = {name: max(jobs[name].ended, services[name].ended) for name in began}
    written = [write for user in users for write in log.of(user)]
    statuses = Counter(write.owner for write in written if write.resource in STATUS)
    daemons = looked(place)
    used = {name: daemon.cpu - before.get(name, 0.0) for name, daemon in daemons.items()}
    side = [name for name in daemons if name not in ("etcd", "kube-apiserver", "kube-controller-manager")]
    return Round(
        latencies=[ended[name] - began[name].begun for name in began],
        drained=max(ended.values()) - min(write.begun for write in began.values()),
        writes=audit.counted(written),
        statuses=[statuses[name] for name in began],
        cpu=sum(used[name] for name in side),
        peak=sum(daemons[name].peak for name in side),
        server=used["etcd"] + used["kube-apiserver"],
        load=load,
    )
