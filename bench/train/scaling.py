"""From one rank to two on this machine: two processes that share its cores and memory, gradients summed by gloo."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import smollm2
from report import Figure, record

from train.contest import prepare
from train.measure import Job, Result

PACKS_A_STEP = 2
"""One a rank with two ranks, so that no rank waits for lack of rows."""


def figures(model: Path, texts: Sequence[Path]) -> list[Figure]:
    """Return tokens a second, by the clock and by CPU, of one and of two ranks over the same steps."""
    with TemporaryDirectory() as scratch:
        path = prepare(Path(scratch), model, texts, all_learned=False)
        job = Job(**json.loads(path.read_text()))
        whole = job.packs[: len(job.packs) // PACKS_A_STEP * PACKS_A_STEP]
        path.write_text(json.dumps(asdict(replace(job, packs=whole, packs_a_step=PACKS_A_STEP))))
        alone, both = train(path, 1), train(path, 2)
    one, two = speed(alone), speed(both)
    cpu = tuple(
        sum(s.tokens for s in found[0].measured) / sum(s.cpu for r in found for s in r.measured)
        for found in (alone, both)
    )
    drift = abs(alone[0].held_out - both[0].held_out)
    return [
        Figure("1 rank: tokens a second", one, "tokens/s"),
        Figure("2 ranks: tokens a second", two, "tokens/s"),
        Figure("2 ranks over 1: tokens a second", two / one, "ratio", "1 rank"),
        Figure("2 ranks over 1: tokens per CPU-second", cpu[1] / cpu[0], "ratio", "1 rank"),
        Figure("2 ranks: held-out loss differs from that of 1 rank by", drift, "nats/token"),
    ]


def train(job: Path, world: int) -> list[Result]:
    """Return the results of all ranks of a group."""
    meet = f"127.0.0.1:{free_port()}"
    fixed = {"OMP_NUM_THREADS": "1", "WORLD_SIZE": str(world), "ANNEAL_MEET": meet}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "train.ours", str(job)],
            env=os.environ | fixed | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    printed = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        sys.exit(f"a rank of {world} failed; its error is above")
    return [Result.parse(output.splitlines()[-1]) for output in printed]


def speed(found: Sequence[Result]) -> float:
    """Return tokens of rows a second by the clock of the first rank; every rank counts the whole step's."""
    return sum(s.tokens for s in found[0].measured) / sum(s.wall for s in found[0].measured)


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> None:
    """Measure and record."""
    record("train-scaling", figures(*smollm2.base_and_texts()))


if __name__ == "__main__":
    main()
