"""A contestant: this trainer, by its own loop, from `model.build` to the last checkpoint.

Rows come in the order of the job's packs: each is a unit, and a curriculum takes them by their number. Ranks beyond one
are told by RANK, WORLD_SIZE and ANNEAL_MEET, as the launcher tells them; rank 0 prints the result.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from anneal_api.finetunejob import FineTuneJobSpec
from anneal_runtime.chat import Encoded
from anneal_trainers.base import model
from anneal_trainers.data import dataset
from anneal_trainers.data.batches import Batch, pack
from anneal_trainers.pod.channel import Channel
from anneal_trainers.pod.group import join_group
from anneal_trainers.records.store import Store
from anneal_trainers.training import loop
from anneal_trainers.training.run import Run, StopFlag
from train.measure import Job, Meter, Result, Rows, Step, held_out_loss, peak_memory, step_of


class Stamps(Channel):
    """Ends a step on the meter whenever the loop reports one."""

    def __init__(self, meter: Meter, steps: Sequence[Step]) -> None:
        super().__init__(None)
        self._meter, self._steps = meter, iter(steps)

    def send(self, message: dict[str, Any]) -> None:
        """Take the loop's messages."""
        if "progress" in message:
            step = next(self._steps)
            step.loss = message["progress"]["loss"]
            self._meter.stamp(step)


def main() -> None:
    """Train once over the job's packs."""
    job = Job.read()
    rows = Rows.load(job.rows, "train")
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = model.pick_device(rank)
    group = join_group(rank, world, os.environ.get("ANNEAL_MEET", ""), 120)
    spec = make_spec(job)
    trainee = model.build(Path(job.model), spec.adapter, job.seed, device)
    steps = [step_of(rows, step, int(rows.lengths[list(step)].sum())) for step in job.steps]
    meter = Meter()
    with TemporaryDirectory() as scratch:
        run = Run(
            spec=spec,
            tasks=["mix"],
            train=split(rows, job.packs),
            validation=split(rows, []),
            trainee=trainee,
            group=group,
            store=Store(f"file://{scratch}", 1, "bench", 1),
            channel=Stamps(meter, steps),
            stop=StopFlag(),
        )
        meter.start()
        loop.train(run)
        peak = peak_memory()
    held_out = held_out_loss(trainee.model, Rows.load(job.rows, "held_out")) if rank == 0 else 0.0
    group.leave()
    Result(meter.steps, peak, held_out).print()


def random_pack(tokens: int, vocabulary: int) -> Batch:
    """Return a pack of two documents of random ids, every token learned."""
    ids = np.random.default_rng(0).integers(0, vocabulary, tokens)
    writer = dataset.SplitWriter(np.uint32)
    for place, part in enumerate(np.array_split(ids, 2)):
        writer.add([Encoded(part.tolist(), [True] * len(part))], 0, [place.to_bytes(32)], None)
    return pack(writer.split(), [0, 1])


def make_spec(job: Job) -> FineTuneJobSpec:
    """Return the spec of the job: a constant learning rate, the mean over tokens, a step's packs."""
    return FineTuneJobSpec.model_validate(
        {
            "baseModel": {"uri": f"file://{job.model}"},
            "tasks": [{"name": "mix", "data": {"uri": f"file://{job.rows}/mix.jsonl"}}],
            "data": {"maxLength": job.capacity},
            "adapter": {"rank": job.rank, "alpha": job.alpha},
            "optimization": {
                "learningRate": job.learning_rate,
                "minLearningRate": job.learning_rate,
                "taskBalance": "tokenMean",
                "globalBatchRows": job.packs_a_step,
                "seed": job.seed,
            },
            "stages": [{"name": "all", "curriculum": True, "epochs": 1}],
            "output": {"uri": "file:///nowhere"},
        }
    )


def split(rows: Rows, packs: Sequence[Sequence[int]]) -> dataset.Split:
    """Return rows as a split of one unit a pack, as difficult as its place: so steps are whole packs in this order."""
    writer = dataset.SplitWriter(np.uint32)
    for place, pack_rows in enumerate(packs):
        pairs = [rows[row] for row in pack_rows]
        pieces = [Encoded(ids.tolist(), learned.tolist()) for ids, learned in pairs]
        writer.add(pieces, 0, [row.to_bytes(32) for row in pack_rows], float(place))
    return writer.split()


if __name__ == "__main__":
    main()
