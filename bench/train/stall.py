"""What a checkpoint of 600 MB costs the loop: the steps it touches, less median steps.

A save begins after one step and copies during the next, so both count: their sum less twice the median of the steps
that no save touches. As in a run, a save has long been written when the next one comes. A step computes for real, forward and backward; the saves are those of the loop's own
store, on the disk of this machine, and the bytes are compared with those of a synchronous save.
"""

import statistics
import time
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
SAVES, BETWEEN = 9, 4
"""Saves, and steps from one to the next: the last of them are touched by none."""
TARGET_MS = 50


def figures() -> list[Figure]:
    """Return the stall, what the loop itself waited for, and whether the bytes are those of a synchronous save."""
    with TemporaryDirectory() as scratch:
        trainee = build(Path(scratch) / "base")
        optimizer = loop.make_optimizer(trainee)
        store = Store(f"file://{scratch}/runs", 1, "bench", 1)
        stalls, waits = measure(trainee, optimizer, store)
        same = is_same(trainee, optimizer, store, Path(scratch))
        size = sum(t.nbytes for t in checkpoint.live_tensors(trainee.flat, optimizer).values()) / 1e6
    stall = statistics.median(stalls) * 1e3
    return [
        Figure("checkpoint: state", size, "MB"),
        Figure("checkpoint: stall of the loop", stall, "ms", "", f"<= {TARGET_MS}", stall <= TARGET_MS),
        Figure("checkpoint: of that, waiting for the staging copy", statistics.median(waits) * 1e3, "ms"),
        Figure("checkpoint: bytes equal those of a synchronous save", float(same), "1 is yes", "", "1", same),
    ]


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
    trainee: model.Trainee, optimizer: torch.optim.Optimizer, store: Store
) -> tuple[list[float], list[float]]:
    """Return for each save the stall, and what the loop waited for the copy, in seconds."""
    seconds, waits = [], []
    for number in range(SAVES * BETWEEN):
        if number % BETWEEN == 0:
            store.wait()
        began = time.perf_counter()
        waited = step(trainee, optimizer, store)
        if number % BETWEEN == BETWEEN - 2:
            store.save(checkpoint.State(step=number + 1), checkpoint.live_tensors(trainee.flat, optimizer))
        seconds.append(time.perf_counter() - began)
        waits.append(waited)
    store.wait()
    rounds = np.asarray(seconds).reshape(SAVES, BETWEEN)[1:]
    print(
        "steps, ms, the last two of a round touched by a save:", (rounds * 1e3).round().tolist(), flush=True
    )
    usual = float(np.median(rounds[:, : BETWEEN - 2]))
    return (rounds[:, BETWEEN - 2 :].sum(1) - 2 * usual).tolist(), np.asarray(waits)[
        BETWEEN - 1 :: BETWEEN
    ].tolist()


def step(trainee: model.Trainee, optimizer: torch.optim.Optimizer, store: Store) -> float:
    """Take a step as the loop does; return the seconds it waited for the copy of the last save."""
    batch = random_pack(TOKENS, trainee.head.shape[0])
    trainee.gradient.zero_()
    weights = torch.full((len(batch.targets),), 1 / len(batch.targets))
    states = trainee.states(batch)[batch.before]
    weighted_cross_entropy(states, trainee.head, batch.targets, weights)[0].backward()  # type: ignore[no-untyped-call]
    began = time.perf_counter()
    store.staged()
    waited = time.perf_counter() - began
    loop.update(trainee, optimizer, float(trainee.gradient.norm()), 1e-4)
    return waited


def is_same(trainee: model.Trainee, optimizer: torch.optim.Optimizer, store: Store, folder: Path) -> bool:
    """Say whether the store's file of the present tensors has the bytes of a file written at once."""
    live = checkpoint.live_tensors(trainee.flat, optimizer)
    store.save(checkpoint.State(step=10**6), live)
    store.wait()
    checkpoint.write(f"file://{folder}/at-once", checkpoint.State(step=10**6), live)
    (written,) = folder.glob("runs/**/step-01000000/state.safetensors")
    return sha256(written) == sha256(folder / "at-once" / checkpoint.TENSORS)


def main() -> None:
    """Measure and record."""
    record("train-checkpoint", figures())


if __name__ == "__main__":
    main()
