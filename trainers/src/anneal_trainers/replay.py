"""`replay --step N`: takes a step of a run again, bit for bit, and shows the rows it was made of, worst last.

The run goes on from its newest checkpoint before the step (or from its start) exactly as it did then, writing
nothing, on as many ranks: each adds up its share in an order of its own, so fewer processes would round
otherwise, and steps that were taken on different numbers of ranks cannot be taken again together. All are started on this machine. Loss, gradient norm and losses by task must equal the ledger's
to the last bit, which holds on the same library versions, kind of processor and threads a rank.
"""

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from anneal_api.outcome import EXIT_CODES, Outcome
from anneal_api.runs import FineTuneRun, runs_folder
from anneal_runtime.errors import Refused
from anneal_runtime.stage import read_run
from anneal_trainers import train
from anneal_trainers.pod.channel import Channel
from anneal_trainers.pod.group import Group
from anneal_trainers.pod.launcher import ENV_PORT, Launcher, rank_environment
from anneal_trainers.pod.ranks import Limits
from anneal_trainers.prepare import inspection
from anneal_trainers.records import checkpoint, ledger
from anneal_trainers.records.ledger import Entry
from anneal_trainers.records.runs import attempts
from anneal_trainers.records.store import Store, Timer
from anneal_trainers.training import assess, loop
from anneal_trainers.training.resume import resume
from anneal_trainers.training.run import Run

COMPARED = ("stage", "rows", "learning_rate", "task_losses", "loss", "gradient_norm", "finite")
Rows = npt.NDArray[np.int64]


class Different(RuntimeError):
    """The step came out otherwise than the ledger says."""


def main(arguments: list[str]) -> int:
    """Replay a step of the run this pod belongs to; exit 0 where it is equal, 70 where it is not."""
    parser = argparse.ArgumentParser(prog="python -m anneal_trainers replay", description=__doc__)
    parser.add_argument("--step", type=int, required=True, help="the step, counted from 1, as in the ledger")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rank:
        return train.run_rank(lambda run, channel: replay(run, channel, options.step))
    outcome = start(read_run(FineTuneRun), options.step)
    if outcome.message:
        print(f"{outcome.reason}: {outcome.message}", file=sys.stderr)
    return EXIT_CODES[outcome.verdict]


def start(run: FineTuneRun, step: int) -> Outcome:
    """Start the ranks that replay a step, and return what became of them."""
    world = recorded(ledger.read(runs_folder(run)), step).world
    command = [sys.executable, "-m", "anneal_trainers", "replay", "--step", str(step), "--rank"]
    meet = f"127.0.0.1:{_free_port()}"
    told = [rank_environment(rank, rank, world, meet) for rank in range(world)]
    limits = Limits(run.spec.workers.start_timeout_seconds, run.spec.fault_policy.hang_timeout_seconds)
    os.environ[ENV_PORT] = "0"  # the run itself may be going on here
    return Launcher([command] * world, told, limits, run.spec).run()


def recorded(entries: Sequence[Entry], step: int) -> Entry:
    """Return the entry of a step.

    Raises:
        Refused: the ledger has none.
    """
    found = next((entry for entry in entries if entry.step == step), None)
    if found is None:
        steps = f"steps {entries[0].step} to {entries[-1].step}" if entries else "no step"
        raise Refused("NotRecorded", f"--step: {step}: the ledger holds {steps}; name one of these")
    return found


def check_worlds(entries: Sequence[Entry], first: int, step: int) -> None:
    """Raise Refused where steps `first` to `step` were not all taken on as many ranks: they round otherwise."""
    worlds = {entry.step: entry.world for entry in entries if first <= entry.step <= step}
    other = [taken for taken, world in worlds.items() if world != worlds[step]]
    if other:
        raise Refused(
            "OtherWorldSize",
            f"--step: {step} was taken by {worlds[step]} ranks, and step {other[-1]}, which comes after the "
            f"newest checkpoint before it, by {worlds[other[-1]]}; name a step up to {other[-1]}, or one whose "
            "checkpoint is newer",
        )


def replay(config: FineTuneRun, channel: Channel, step: int) -> None:
    """Take the step again with the other ranks; the first compares and prints.

    Raises:
        Different: it is not the step that the ledger holds.
    """
    folder = runs_folder(config)
    entries = ledger.read(folder)
    expected = recorded(entries, step)
    store = Store(
        folder, attempts(folder)[-1], inspection(config).keys.train, config.spec.checkpoint.keep, before=step
    )
    run = train.assemble(config, channel, store)
    run.timer = Timer(None)
    state, optimizer = approach(run, step, entries)
    rows, _ = loop.draw(run, state)
    losses = row_losses(run, rows)
    found = loop.take_step(run, state, optimizer)[1].entry
    if run.leads:
        print(table(run, rows, losses), flush=True)
        compare(expected, found)
        print(f"step {step} is equal: loss {found.loss!r}, gradient norm {found.gradient_norm!r}", flush=True)
    run.group.leave()


def approach(run: Run, step: int, entries: Sequence[Entry]) -> tuple[checkpoint.State, torch.optim.Optimizer]:
    """Return the state just before `step` is taken, as `loop.train` comes by it, and the optimizer.

    Raises:
        Refused: `entries` say that other numbers of ranks took the steps on the way.
    """
    optimizer = loop.make_optimizer(run.trainee)
    state = resume(run.store, run.group, run.trainee, optimizer) or loop.enter(run, loop.first_state(run), 0)
    check_worlds(entries, state.step + 1, step)
    while True:
        state = assess.assess(run, state)
        if loop.is_over(run, state):
            state, optimizer = loop.enter(run, state, state.stage + 1), loop.make_optimizer(run.trainee)
        elif state.step + 1 == step:
            return state, optimizer
        else:
            state, _ = loop.take_step(run, state, optimizer)


def row_losses(run: Run, rows: Rows) -> npt.NDArray[np.float64]:
    """Return the mean loss of each row's items before the step and without dropout, [rows]; nan without items.

    Every rank measures all rows: where the base is divided among them they must do it together.
    """
    sums, counts = np.zeros(len(rows)), np.zeros(len(rows))
    alone = replace(run.meter, group=Group(), in_step=False)
    run.trainee.model.eval()
    with torch.no_grad():
        for part, _ in alone.parts(run.train, rows, np.zeros(len(rows)), "replay"):
            np.add.at(sums, part.rows, part.values.double().cpu().numpy())
            np.add.at(counts, part.rows, 1)
    return np.divide(sums, counts, out=np.full(len(rows), np.nan), where=counts > 0)


def table(run: Run, rows: Rows, losses: npt.NDArray[np.float64]) -> str:
    """Return a line for each row of the step, in order of loss."""
    head = f"{'loss':>12}  {'row':>9}  {'digest':16}  task"
    order = np.argsort(losses, kind="stable")
    digests = [digest.tobytes().hex() for digest in run.train.digests[rows, : ledger.DIGEST_BYTES]]
    names = [run.tasks[task] for task in run.train.tasks[rows]]
    lines = [f"{losses[i]:12.6f}  {rows[i]:9d}  {digests[i]}  {names[i]}" for i in order]
    return "\n".join([head, *lines])


def compare(expected: Entry, found: Entry) -> None:
    """Raise Different where a figure of the step is not the ledger's, to the last bit."""
    wrong = [
        f"{name}: {_text(getattr(expected, name))} then, {_text(getattr(found, name))} now"
        for name in COMPARED
        if _text(getattr(expected, name)) != _text(getattr(found, name))
    ]
    if wrong:
        raise Different(f"step {expected.step} is different: {'; '.join(wrong)}")


def _text(value: object) -> str:
    return repr(value)  # floats with all their bits; one that is no number equals itself


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
