"""The operator killed in the middle of a burst: nothing twice, nothing missing."""

import asyncio
import signal
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from report import Figure

from operator_scale import audit, ours, plane, round
from operator_scale.audit import Audit
from operator_scale.plane import Plane


@dataclass
class Killed:
    """What was found afterwards."""

    objects: int
    before: int
    """Training Jobs that were there when the operator was killed."""
    duplicates: int
    missing: int


async def run(data: Path, objects: int) -> Killed:
    """Release so many, kill the operator when half of the Jobs are there, and start it again."""
    async with plane.plane(data) as place:
        ours.operator(place)
        await ours.known(place, objects)
        log = Audit(plane.PLACE.logs / "audit.log").read()
        log.writes.clear()
        resources = [ours.resource(number) for number in range(objects)]
        release = asyncio.create_task(plane.each(lambda obj: ours.release(place, obj), resources))
        await place.until("half", lambda: len(log.read().first("jobs")) >= objects // 2, 300, 0.02)
        place.end("operator", signal.SIGKILL)
        before = len(log.read().first("jobs"))
        ours.operator(place)
        await release
        # The log calls writes failed whose client was gone before the answer, although they are done; pods are made
        # by a controller that lives on.
        await place.until("the rest", lambda: round.pods(log.read()) >= objects, 300)
        await round.quiet(log, [ours.USER])
        return Killed(objects, before, *await counted(place, log, objects))


async def counted(place: Plane, log: Audit, objects: int) -> tuple[int, int]:
    """Return how many Jobs and Services there are, or were ever made, too many, and how many are missing."""
    made = Counter((write.resource, write.owner) for write in log.of(ours.USER) if _makes(write))
    duplicates = sum(number - 1 for number in made.values())
    missing = 0
    for collection in ("/apis/batch/v1/namespaces/bench/jobs", "/api/v1/namespaces/bench/services"):
        names = [item["metadata"]["name"] for item in (await place.ask("GET", collection))["items"]]
        there = Counter(name[: audit.NAME_LENGTH] for name in names)
        duplicates = max(duplicates, sum(number - 1 for number in there.values()))
        missing += objects - len(there)
    return duplicates, missing


def _makes(write: audit.Write) -> bool:
    """Whether a write makes a training Job; an apply of a Service that is there already makes none."""
    return write.resource == "jobs" and write.verb == "create"


def figures(found: Killed) -> list[Figure]:
    """Return what is recorded."""
    what = f"killed at {found.before} of {found.objects} Jobs"
    return [
        Figure(f"{what}: duplicates", found.duplicates, "objects", "", "0", found.duplicates == 0),
        Figure(f"{what}: missing", found.missing, "objects", "", "0", found.missing == 0),
    ]
