"""Anneal's operator and Kubeflow Trainer with JobSet in turn, each round on a control plane of its own.

Three rounds: everything at once, both sides, and a client that knows what to write in place of the operator, which tells
what the API server leaves to win. Then so many a second, both sides; ours killed half-way; and ours with many finished
objects at rest. Figures are medians over the rounds.
"""

import argparse
import asyncio
import signal
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cluster import tools
from report import Figure, record

from operator_scale import floor, killed, ours, peer, plane, rest, round
from operator_scale.round import Round

ROUNDS = 3
PACE, PACED_SECONDS = 10.0, 20
STARTED = time.monotonic()


def say(text: str) -> None:
    """Print progress with the seconds since the start."""
    print(f"[{time.monotonic() - STARTED:5.0f}s] {text}", flush=True)


async def held(objects: int) -> Path:
    """Return a store with so many planned FineTuneJobs that wait, as the operator has left them."""
    async with plane.plane(manager=False) as place:
        await ours.install(place)
        await ours.prepare(place, objects)
        ours.operator(place)
        await ours.known(place, objects)
        place.end("operator")
        place.end("etcd")
        return plane.keep("held")


async def our_round(
    data: Path, known: int, objects: int, pace: float | None = None, made_of: floor.Answers | None = None
) -> Round:
    """Release `objects` of the `known` FineTuneJobs in the store; what was made of them is added to `made_of`."""
    async with plane.plane(data) as place:
        ours.operator(place)
        await ours.known(place, known)
        before = ours.reconciles()
        made = await round.run(place, [ours.USER], ours.release, resources(ours.resource, objects), pace)
        made.reconciles = ours.reconciles() - before
        if made_of is not None:
            made_of.update(await floor.answers(place))
        return made


async def peer_round(objects: int, pace: float | None = None) -> Round:
    """Create so many TrainJobs."""
    async with plane.plane() as place:
        await peer.install(place)
        return await round.run(place, peer.USERS, peer.create, resources(peer.resource, objects), pace)


def resources(make: Callable[[int], plane.Object], objects: int) -> list[plane.Object]:
    """Return so many resources."""
    return [make(number) for number in range(objects)]


def shown(side: str, made: Round) -> Round:
    """Say what a round has come to."""
    say(
        f"{side}: {made.objects} in {made.drained:.1f} s, p50 {made.latency(0.5):.2f} s, p99 {made.latency(0.99):.2f} s, "
        f"{sum(made.writes.values()) / made.objects:.1f} writes an object, CPU {made.cpu:.1f} s, {made.peak:.0f} MiB"
    )
    return made


async def main(objects: int, finished: int) -> None:
    """Run everything and record it."""
    plane.clear()
    say(f"{objects} FineTuneJobs are planned and held")
    data = await held(objects)
    our_rounds, peer_rounds, floors = [], [], []
    answers: floor.Answers = {}
    for number in range(ROUNDS):
        say(f"round {number + 1} of {ROUNDS}: {objects} at once")
        our_rounds.append(shown("ours", await our_round(data, objects, objects, made_of=answers)))
        floors.append(shown("no operator", await floor.run(data, answers, objects)))
        peer_rounds.append(shown("peer", await peer_round(objects)))
    few = min(objects, int(PACE * PACED_SECONDS))
    say(f"{few} at {PACE:.0f} a second")
    our_pace = shown("ours", await our_round(data, objects, few, PACE))
    peer_pace = shown("peer", await peer_round(few, PACE))
    say(f"{objects} at once, the operator killed half-way")
    again = await killed.run(data, objects)
    say(f"{again.duplicates} duplicates, {again.missing} missing")
    say(f"{finished} finished FineTuneJobs at rest")
    still = await rest.run(finished)
    plane.clear()
    record(
        "operator",
        [
            *bursts(our_rounds, peer_rounds),
            *ceiling(floors, peer_rounds),
            *paces(our_pace, peer_pace),
            *killed.figures(again),
            *rest.figures(still),
        ],
    )


def bursts(mine: list[Round], theirs: list[Round]) -> list[Figure]:
    """Return what the rounds have come to, in medians."""

    def both(what: str, unit: str, of: Callable[[Round], float]) -> Figure:
        a, b = (statistics.median(of(made) for made in rounds) for rounds in (mine, theirs))
        return Figure(f"{mine[0].objects} at once: {what}", a, unit, f"Trainer {b:.4g}")

    def ratio(what: str, of: Callable[[Round], float]) -> Figure:
        value = statistics.median(of(a) / of(b) for a, b in zip(mine, theirs, strict=True))
        return Figure(what, value, "ratio", "Trainer", ">= 3", value >= 3)

    status = statistics.median(max(made.statuses) for made in mine)
    memory = max(made.peak for made in mine)
    return [
        both("p50 to Job and Service", "s", lambda made: made.latency(0.5)),
        both("p99 to Job and Service", "s", lambda made: made.latency(0.99)),
        both("Jobs and Services", "objects/s", lambda made: made.rate),
        ratio("rate of Trainer's", lambda made: made.rate),
        ratio("Trainer's p99 over ours", lambda made: 1 / made.latency(0.99)),
        both("writes", "an object", lambda made: sum(made.writes.values()) / made.objects),
        Figure("status writes, most of any object", status, "writes", "", "<= 2", status <= 2),
        Figure("reconciles", statistics.median(made.reconciles / made.objects for made in mine), "an object"),
        both("CPU of the controllers", "s", lambda made: made.cpu),
        both("CPU of API server and etcd", "s", lambda made: made.server),
        both("load of the machine as the round began", "processes", lambda made: made.load),
        Figure(
            "peak memory",
            memory,
            "MiB",
            f"Trainer {max(made.peak for made in theirs):.4g}",
            "< 300",
            memory < 300,
        ),
    ]


def ceiling(floors: list[Round], theirs: list[Round]) -> list[Figure]:
    """Return the rate of the client that only writes, and what it would be of the peer's."""
    rate = statistics.median(made.rate for made in floors)
    share = statistics.median(a.rate / b.rate for a, b in zip(floors, theirs, strict=True))
    what = f"{floors[0].objects} at once, a client that knows what to write"
    return [
        Figure(f"{what}: Jobs and Services", rate, "objects/s"),
        Figure(f"{what}: rate of Trainer's", share, "ratio", "Trainer"),
    ]


def paces(mine: Round, theirs: Round) -> list[Figure]:
    """Return the latencies at a steady pace."""
    a, b = mine.latency(0.99), theirs.latency(0.99)
    what = f"{PACE:.0f} a second: p99 to Job and Service"
    return [Figure(what, a, "s", f"Trainer {b:.4g}", "< 1", a < 1)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="bench operator_scale", description=__doc__)
    parser.add_argument("--objects", type=int, default=1000, help="resources at once (default: 1000)")
    parser.add_argument("--finished", type=int, default=10000, help="resources at rest (default: 10000)")
    options = parser.parse_args()
    tools.need("kubernetes", peer.MODULE)
    # The processes end with this one in any case; the files go too, unless their logs are wanted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        asyncio.run(main(options.objects, options.finished))
    except (KeyboardInterrupt, SystemExit) as error:
        if not isinstance(getattr(error, "code", None), str):
            plane.clear()
        raise
