"""`spikes`: names the steps whose loss is out of line, from the ledger alone, and the rows they were made of.

The rule is robust, as a mean and a deviation would be moved by the spikes themselves. Of the last WINDOW steps
before a step m is the median loss and s = 1.4826 x median|loss - m|, which for normal noise is its standard
deviation (Hampel's identifier). A step is a spike where its loss is above m + FACTOR x max(s, FLOOR x |m|),
or is no number; the first LEAST steps have nothing to be compared with. A new level counts as spikes only until it
is half of the window.
"""

import argparse
import math
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from anneal_api.runs import FineTuneRun, runs_folder
from anneal_runtime.stage import read_run
from anneal_trainers import tuned
from anneal_trainers.data import dataset
from anneal_trainers.data.dataset import Split
from anneal_trainers.records import ledger
from anneal_trainers.records.ledger import DIGEST_BYTES, Entry

WINDOW, LEAST = 64, 8
FACTOR = 6.0
NORMAL = 1.4826
FLOOR = 0.01
"""Of the median: the least noise there is, where losses hardly differ."""


@dataclass(frozen=True)
class Spike:
    """A step out of line: its place among the losses, and what it stands out from."""

    place: int
    loss: float
    median: float
    limit: float

    @property
    def excess(self) -> float:
        """How far the loss is above the limit; a loss that is no number is the worst."""
        return self.loss - self.limit if math.isfinite(self.loss) else math.inf


def find(losses: Sequence[float]) -> list[Spike]:
    """Return the spikes among the losses of consecutive steps."""
    return [spike for place in range(LEAST, len(losses)) if (spike := _judge(losses, place)) is not None]


def _judge(losses: Sequence[float], place: int) -> Spike | None:
    before = [loss for loss in losses[max(0, place - WINDOW) : place] if math.isfinite(loss)]
    if len(before) < LEAST:
        return None
    median = statistics.median(before)
    noise = NORMAL * statistics.median(abs(loss - median) for loss in before)
    limit = median + FACTOR * max(noise, FLOOR * abs(median))
    loss = losses[place]
    return None if loss <= limit else Spike(place, loss, median, limit)


def main(arguments: list[str]) -> int:
    """Print the spikes of the run this pod belongs to, the worst last."""
    argparse.ArgumentParser(prog="python -m anneal_trainers spikes", description=__doc__).parse_args(
        arguments
    )
    run = read_run(FineTuneRun)
    entries = ledger.read(runs_folder(run))
    folder = tuned.dataset_folder(run)
    split, names = dataset.open_split(folder, "train"), dataset.task_names(folder)
    found = find([entry.loss for entry in entries])
    print(f"{len(entries)} steps, {len(found)} spikes")
    for spike in sorted(found, key=lambda spike: spike.excess):
        print("\n".join(lines(spike, entries[spike.place], split, names)))
    return os.EX_OK


def lines(spike: Spike, entry: Entry, split: Split, names: Sequence[str]) -> Iterator[str]:
    """Yield what a person reads about a spike."""
    losses = ", ".join(f"{name} {loss:.4f}" for name, loss in entry.task_losses.items())
    yield (
        f"step {entry.step}: loss {spike.loss:.4f}, median before {spike.median:.4f}, limit {spike.limit:.4f}; "
        f"gradient norm {entry.gradient_norm:.4f}; by task: {losses}"
    )
    for digest, row in zip(entry.rows, places(entry.rows, split), strict=True):
        yield f"  row {row} of the dataset, task {names[split.tasks[row]]}, digest {digest}"


def places(digests: Sequence[str], split: Split) -> list[int]:
    """Return where the rows of these digests lie in the dataset; of equal rows the first.

    Raises:
        KeyError: there is no such row: the ledger is of another dataset.
    """
    prefixes = np.ascontiguousarray(split.digests[:, :DIGEST_BYTES]).view(">u8").ravel()
    order = np.argsort(prefixes, kind="stable")
    wanted = np.asarray([int(digest, 16) for digest in digests], ">u8")
    found = order[np.minimum(np.searchsorted(prefixes, wanted, sorter=order), len(order) - 1)]
    if (missing := wanted[prefixes[found] != wanted]).size:
        raise KeyError(f"{missing[0]:016x} is the digest of no row; the ledger is of another dataset")
    return [int(row) for row in found]
