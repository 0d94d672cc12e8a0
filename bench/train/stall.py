"""What a checkpoint of 600 MB costs the loop: the steps it touches, less as many median steps.

A save begins at the end of one step, is staged beside the next, and is written beside those that follow. The stall is what
the first two take longer, so the staging is in it; what the loop loses to the writing, at the lowest priority and on
cores that the loop wants all of, stands beside it. The others are what a step usually takes. A step computes for real,
forward and backward; the saves are those of the loop's own store, on the disk of this machine, and the bytes are
compared with those of a synchronous save. Beside the time stands the CPU time of the loop's thread, which the machine's
other work does not touch, and that of the thread that writes.
"""

import threading
import time
from dataclasses import astuple, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import transformers
from report import Figure, record

from anneal_api.finetunejob import Adapter
from anneal_runtime.artifacts import sha256
from anneal_trainers.base import model
from anneal_trainers.records import checkpoint
from anneal_trainers.records.store import Store
from anneal_trainers.training import loop
from anneal_trainers.training.losses import weighted_cross_entropy
from train.ours import random_pack

HIDDEN, LAYERS, RANK = 1024, 4, 690
"""An adapter of 50.2M weights: with both moments of AdamW, 602 MB."""
TOKENS = 128
SAVES, BEFORE = 17, 3
"""Saves, of which the first is left out, as it allocates; and steps before each that none touches."""
STAGED = 2
"""Steps from the call to save to the end of the staging."""
TARGET_MS = 50


@dataclass(frozen=True)
class Cost:
    """What a step took, in seconds: of the clock, of its thread's CPU and of all others', and waiting for the copy."""

    wall: float
    loop: float
    others: float
    waited: float


def figures() -> list[Figure]:
    """Return the stall, what it was made of, and whether the bytes are those of a synchronous save."""
    writing = threading.Event()
    with TemporaryDirectory() as scratch:
        trainee = build(Path(scratch) / "base")
        optimizer = loop.make_optimizer(trainee)
        tell = [writing.clear, writing.set]
        store = Store(f"file://{scratch}/runs", 1, "bench", 1, tell=lambda begins: tell[begins]())
        usual, touched = measure(trainee, optimizer, store, writing)
        same = is_same(trainee, optimizer, store, Path(scratch))
        size = sum(t.nbytes for t in checkpoint.live_tensors(trainee.flat, optimizer).values()) / 1e6
    return [Figure("checkpoint: state", size, "MB"), *timings(usual, touched), equality(same)]


def build(folder: Path) -> model.Trainee:
    """Return a random Llama of a few layers with a large adapter."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=2816,
        num_hidden_layers=LAYERS,
        num_attention_heads=16,
        num_key_value_heads=4,
        vocab_size=4096,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return model.build(folder, Adapter(rank=RANK), 0, model.pick_device(0))


def measure(
    trainee: model.Trainee, optimizer: torch.optim.Optimizer, store: Store, writing: threading.Event
) -> tuple[list[Cost], list[list[Cost]]]:
    """Return the steps that no save touches, and for each save those that it does."""
    usual, touched = list[Cost](), list[list[Cost]]()
    for number in range(SAVES):
        state = checkpoint.State(step=number + 1)
        alone = [step(trainee, optimizer, store) for _ in range(BEFORE)]
        during = [step(trainee, optimizer, store, state), step(trainee, optimizer, store)]
        while writing.is_set():
            during.append(step(trainee, optimizer, store))
        store.wait()
        print("steps, ms:", milliseconds(alone), "with a save:", milliseconds(during), flush=True)
        if number:
            usual.extend(alone)
            touched.append(during)
    return usual, touched


def step(
    trainee: model.Trainee,
    optimizer: torch.optim.Optimizer,
    store: Store,
    state: checkpoint.State | None = None,
) -> Cost:
    """Take a step as the loop does, and save after it where a state is given."""
    began, loop_cpu, cpu, waited = time.perf_counter(), time.thread_time(), time.process_time(), store.waited
    batch = random_pack(TOKENS, trainee.head.shape[0])
    trainee.gradient.zero_()
    weights = torch.full((len(batch.targets),), 1 / len(batch.targets))
    states = trainee.states(batch)[batch.before]
    weighted_cross_entropy(states, trainee.head, batch.targets, weights)[0].backward()  # type: ignore[no-untyped-call]
    store.staged()
    loop.update(trainee, optimizer, float(trainee.gradient.norm()), 1e-4)
    if state is not None:
        store.save(state, checkpoint.live_tensors(trainee.flat, optimizer))
    loop_cpu = time.thread_time() - loop_cpu
    others = time.process_time() - cpu - loop_cpu
    return Cost(time.perf_counter() - began, loop_cpu, others, store.waited - waited)


def milliseconds(costs: list[Cost]) -> list[int]:
    """Return what steps took by the clock."""
    return [round(cost.wall * 1e3) for cost in costs]


def timings(usual: list[Cost], touched: list[list[Cost]]) -> list[Figure]:
    """Return the figures of the steps that no save touches, and of those that each save does."""
    alone = np.asarray([astuple(cost) for cost in usual]) * 1e3
    stall, waited = more([during[:STAGED] for during in touched], alone)[[0, 3]].tolist()
    whole, loop_cpu, others, _ = more(touched, alone).tolist()
    count = float(np.median([len(during) for during in touched]))
    low, usually, high = np.quantile(alone[:, 0], [0.25, 0.5, 0.75]).tolist()
    return [
        Figure("checkpoint: stall, staging included", stall, "ms", "", f"<= {TARGET_MS}", stall <= TARGET_MS),
        Figure("checkpoint: of that, waiting for the staging copy", waited, "ms"),
        Figure("checkpoint: from its begin until it is written", count, "steps"),
        Figure("checkpoint: what all of these take longer", whole, "ms"),
        Figure("checkpoint: of that, CPU time of the loop's thread", loop_cpu, "ms"),
        Figure("checkpoint: CPU time of the thread that copies and writes", others, "ms"),
        Figure("steps without a save: median", usually, "ms"),
        Figure("steps without a save: the middle half of them lies within", high - low, "ms"),
    ]


def more(touched: list[list[Cost]], alone: np.ndarray) -> np.ndarray:
    """Return by how much steps with a save exceed as many median steps without: the median save [4], in ms."""
    sums = [np.sum([astuple(cost) for cost in during], axis=0) * 1e3 for during in touched]
    counts = np.asarray([[len(during)] for during in touched])
    return np.asarray(np.median(sums - counts * np.median(alone, axis=0), axis=0))


def is_same(trainee: model.Trainee, optimizer: torch.optim.Optimizer, store: Store, folder: Path) -> bool:
    """Say whether the store's file of the present tensors has the bytes of a file written at once."""
    live = checkpoint.live_tensors(trainee.flat, optimizer)
    store.save(checkpoint.State(step=10**6), live)
    store.wait()
    checkpoint.write(f"file://{folder}/at-once", checkpoint.State(step=10**6), live)
    (written,) = folder.glob("runs/**/step-01000000/state.safetensors")
    return sha256(written) == sha256(folder / "at-once" / checkpoint.TENSORS)


def equality(same: bool) -> Figure:
    """Return the figure of that."""
    return Figure(
        "checkpoint: bytes equal those of a synchronous save", float(same), "1 is yes", "", "1", same
    )


def main() -> None:
    """Measure and record."""
    record("train-checkpoint", figures())


if __name__ == "__main__":
    main()
