"""`make bench-train.multitask`: three tasks balanced (taskMean) against the same rows as one mixed task (tokenMean).

SmolLM2-135M-Instruct on the quick start's tasks. Both runs take the very same rows in every step, from the same
seed and the same first adapter; only the weights of the loss differ. Losses are those of held-out modules, measured
alike for both after the last step.
"""

import os
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import smollm2
from report import Figure, record

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from anneal_api.finetunejob import FineTuneJobSpec
from anneal_trainers.base import model
from anneal_trainers.data import dataset
from anneal_trainers.data.batches import batches
from anneal_trainers.pod.channel import Channel
from anneal_trainers.pod.group import Group
from anneal_trainers.records.store import Store
from anneal_trainers.training import loop
from anneal_trainers.training.losses import weighted_cross_entropy
from anneal_trainers.training.run import Run, StopFlag

STEPS, TOKENS = 60, 512
SPLIT = {"train": 90, "validation": 10, "test": 0}


def main() -> None:
    """Train both, record the losses of every task before and after."""
    model_folder, _ = smollm2.base_and_texts()
    spec = smollm2.make_spec(
        SPLIT, {"maxSteps": STEPS, "globalBatchTokens": TOKENS, "learningRate": 2e-4, "warmupSteps": 5}
    )
    folder = smollm2.prepared(spec)
    names = dataset.task_names(folder)
    train, held_out = (dataset.open_split(folder, name) for name in ("train", "validation"))
    mixed = replace(train, tasks=np.zeros_like(train.tasks))
    balanced = after(model_folder, spec, names, train, held_out)
    by_token = spec.optimization.model_copy(update={"task_balance": "tokenMean"})
    one = spec.model_copy(update={"tasks": spec.tasks[:1], "optimization": by_token})
    mix = after(model_folder, one, names[:1], mixed, held_out)
    before = losses(model.build(model_folder, spec.adapter, 0, model.pick_device(0)), held_out)
    record("multitask", figures(names, before, balanced, mix, held_out))


def after(
    folder: Path, spec: FineTuneJobSpec, names: list[str], train: dataset.Split, held_out: dataset.Split
) -> np.ndarray:
    """Return the held-out loss of each task after a run."""
    trainee = model.build(folder, spec.adapter, spec.optimization.seed, model.pick_device(0))
    with TemporaryDirectory() as scratch:
        run = Run(
            spec=spec,
            tasks=names,
            train=train,
            validation=dataset.SplitWriter(np.uint16).split(),
            trainee=trainee,
            group=Group(),
            store=Store(f"file://{scratch}", 1, "bench", 1),
            channel=Channel(None),
            stop=StopFlag(),
            record=lambda step, values: print(
                f"{spec.optimization.task_balance} {step} {values['train/loss']:.4f}",
                flush=True,
            ),
        )
        loop.train(run)
    return losses(trainee, held_out)


def losses(trainee: model.Trainee, split: dataset.Split) -> np.ndarray:
    """Return the mean nll of a learned token of each task."""
    sums, counts = np.zeros((2, int(split.tasks.max()) + 1))
    trainee.model.eval()
    with torch.no_grad():
        for batch in batches(split, np.arange(len(split)), TOKENS, packed=True):
            states = trainee.states(batch)[batch.before]
            ones = torch.ones(len(batch.targets))
            nll = weighted_cross_entropy(states, trainee.head, batch.targets, ones)[1].numpy()
            np.add.at(sums, split.tasks[batch.rows], nll)
            np.add.at(counts, split.tasks[batch.rows], 1)
    mean: np.ndarray = sums / counts
    return mean


def figures(
    names: list[str], before: np.ndarray, balanced: np.ndarray, mix: np.ndarray, held_out: dataset.Split
) -> list[Figure]:
    """Return the losses by task, and the means of both kinds: each favours the run that minimises it."""
    shown = [Figure("steps of 512 tokens", STEPS, "steps")]
    for k, name in enumerate(names):
        shown += [
            Figure(f"{name}: held-out rows", float((held_out.tasks == k).sum()), "rows"),
            Figure(f"{name}: base", before[k], "nats/token"),
            Figure(f"{name}: one mixed task", mix[k], "nats/token"),
            Figure(f"{name}: multi-task", balanced[k], "nats/token", "one mixed task"),
        ]
    tokens = np.bincount(held_out.tasks, held_out.targets)
    for what, weights in (("mean over tasks", np.ones(len(names))), ("mean over tokens", tokens)):
        shown += [
            Figure(f"{what}: one mixed task", float(np.average(mix, weights=weights)), "nats/token"),
            Figure(
                f"{what}: multi-task",
                float(np.average(balanced, weights=weights)),
                "nats/token",
                "one mixed task",
            ),
        ]
    return shown


if __name__ == "__main__":
    main()
