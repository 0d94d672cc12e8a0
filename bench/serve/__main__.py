"""SmolLM2-135M in INT4 on all cores: the endpoint beside Triton alone, OpenVINO GenAI in a process, and llama.cpp's server.

Everyone is asked for the same prompts but for their first token, in turns.
"""

import os
import statistics
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import smollm2
from report import Figure, record

from anneal_api.runs import ENV_TERMINATION_LOG
from serve import contestants, lengths
from serve.contestants import GATEWAY, IN_PROCESS, SAME_BITS, TRITON, Contestant
from serve.measure import Answer, rate
from serve.workload import Prompts

TRIALS = 2
PROMPT, TOKENS = 128, 64
STREAMS = {1: 4, 8: 16}
"""Streams at once, and prompts of a trial."""
PAIRS = 100
SHORT = (16, 8)
"""Prompt and answer of a pair: shorter than a block of the KV cache, so that none is kept."""
ADDED_MS, CPU_SHARE = 3.0, 0.10


@dataclass
class Found:
    """What the trials of one contestant with so many streams gave."""

    rates: list[float] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """CPU seconds of each server."""


Results = dict[tuple[str, int], Found]


def measure(everyone: dict[str, Contestant], prompts: Prompts) -> Results:
    """Ask everyone in turns, TRIALS times."""
    found: Results = defaultdict(Found)
    jobs = {streams: prompts.job(PROMPT, TOKENS, count, streams) for streams, count in STREAMS.items()}
    for contestant in everyone.values():
        contestant.run(prompts.fresh(jobs[8]))
    for trial in range(TRIALS):
        for streams, job in jobs.items():
            for name, contestant in everyone.items():
                before, mine = contestant.cpu, found[name, streams]
                answers = contestant.run(prompts.fresh(job))
                used = [after - was for after, was in zip(contestant.cpu, before, strict=True)]
                mine.rates.append(rate(answers))
                mine.answers += answers
                mine.cpu = [a + b for a, b in zip(mine.cpu or [0.0] * len(used), used, strict=True)]
                print(f"trial {trial}, {streams} streams, {name}: {mine.rates[-1]:.1f} tokens/s", flush=True)
    return found


def overhead(everyone: dict[str, Contestant], prompts: Prompts) -> list[float]:
    """Return by how many ms the gateway's answer begins later than the replica's own, pair by pair, one stream."""
    job = prompts.job(*SHORT, count=1, streams=1)
    added = []
    for pair in range(PAIRS):
        order = (GATEWAY, TRITON) if pair % 2 else (TRITON, GATEWAY)
        seconds = {name: everyone[name].run(prompts.fresh(job))[0].first for name in order}
        added.append(1e3 * (seconds[GATEWAY] - seconds[TRITON]))
    return added


def percentile(values: list[float], share: float) -> float:
    """Return the value below which a share of the values lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def speeds(name: str, contestant: Contestant, found: Results) -> list[Figure]:
    """Return what is told of one contestant."""
    shown = [Figure(f"{name}: bits a weight, all of the file", contestant.bits, "bits")]
    for streams in STREAMS:
        mine = found[name, streams]
        what = f"{name}, {streams} at once"
        firsts = [1e3 * answer.first for answer in mine.answers]
        gaps = [1e3 * gap for answer in mine.answers for gap in answer.gaps]
        tokens = sum(answer.tokens for answer in mine.answers)
        shown += [
            Figure(f"{what}: tokens a second", statistics.median(mine.rates), "tokens/s"),
            Figure(f"{what}: to the first token, p50", percentile(firsts, 0.5), "ms"),
            Figure(f"{what}: to the first token, p99", percentile(firsts, 0.99), "ms"),
            Figure(f"{what}: between tokens, p50", percentile(gaps, 0.5), "ms"),
            Figure(f"{what}: between tokens, p99", percentile(gaps, 0.99), "ms"),
            Figure(f"{what}: CPU of a token", 1e3 * sum(mine.cpu) / tokens, "ms"),
        ]
    return [*shown, Figure(f"{name}: memory after the load", contestant.memory / 1e6, "MB")]


def compared(found: Results) -> list[Figure]:
    """Return the ratios of tokens a second."""
    pairs = [(GATEWAY, TRITON), (TRITON, IN_PROCESS), (GATEWAY, SAME_BITS)]
    return [
        Figure(
            f"{one} over {other}, {streams} at once: tokens a second",
            statistics.median(
                a / b for a, b in zip(found[one, streams].rates, found[other, streams].rates, strict=True)
            ),
            "ratio",
            other,
        )
        for one, other in pairs
        for streams in STREAMS
    ]


def costs(found: Results, added: list[float]) -> list[Figure]:
    """Return what the gateway costs."""
    middle = percentile(added, 0.5)
    own, replica = found[GATEWAY, 8].cpu
    share = own / (own + replica)
    return [
        Figure(
            f"gateway adds to the first token, p50 of {PAIRS} pairs, one stream",
            middle,
            "ms",
            TRITON,
            f"< {ADDED_MS:.0f}",
            middle < ADDED_MS,
        ),
        Figure(
            f"gateway adds to the first token, p90 of {PAIRS} pairs", percentile(added, 0.9), "ms", TRITON
        ),
        Figure(
            "gateway's share of a request's CPU, 8 at once",
            100 * share,
            "%",
            "",
            f"< {100 * CPU_SHARE:.0f}",
            share < CPU_SHARE,
        ),
    ]


def main() -> None:
    """Measure and record."""
    prompts = Prompts()
    with tempfile.TemporaryDirectory() as folder:
        with contestants.all_of(smollm2.exported(), Path(folder)) as everyone:
            found = measure(everyone, prompts)
            added = overhead(everyone, prompts)
            shown = [figure for name, each in everyone.items() for figure in speeds(name, each, found)]
            record("serve", [*compared(found), *costs(found, added), *shown])
            record("serve-lengths", lengths.figures(everyone, prompts))


if __name__ == "__main__":
    os.environ.setdefault(ENV_TERMINATION_LOG, "/dev/null")
    main()
