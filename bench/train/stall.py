"""What a checkpoint of 600 MB costs the loop: the steps it touches, less as many median steps.

A save begins at the end of one step, is staged beside the next, and is written beside those that follow, at the lowest
priority and on cores that the loop wants all of. The stall is what the first two take longer, so the staging is in it;
what all of them do stands beside it. What a step takes without is the median of those just before and just after, as a
shared machine is slower by a tenth for minutes at a time; and as noise only ever adds, every second round saves nothing,
and what its steps seem to take longer is taken off. A step computes for real,
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
import numpy.typing as npt
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
ROUNDS, BETWEEN = 80, 2
"""Rounds after the first, whose save allocates, half of them with a save; and steps before, between and after them."""
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


@dataclass(frozen=True)
class Round:
    """Steps that a save touches, or none: what each cost [steps, 4], and the median of those around them [4], in ms."""

    saves: bool
    during: npt.NDArray[np.float64]
    usual: npt.NDArray[np.float64]

    def excess(self, steps: int) -> npt.NDArray[np.float64]:
        """Return what the first `steps` of them took longer than as many usual ones [4]."""
        first = self.during[:steps]
        return np.asarray(first.sum(axis=0) - len(first) * self.usual)


def figures() -> list[Figure]:
    """Return the stall, what it was made of, and whether the bytes are those of a synchronous save."""
    writing = threading.Event()
    with TemporaryDirectory() as scratch:
        trainee = build(Path(scratch) / "base")
        optimizer = loop.make_optimizer(trainee)
        tell = [writing.clear, writing.set]
        store = Store(f"file://{scratch}/runs", 1, "bench", 1, tell=lambda begins: tell[begins]())
        rounds = measure(trainee, optimizer, store, writing)
        same = is_same(trainee, optimizer, store, Path(scratch))
        size = sum(t.nbytes for t in checkpoint.live_tensors(trainee.flat, optimizer).values()) / 1e6
    return [Figure("checkpoint: state", size, "MB"), *timings(rounds), equality(same)]


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
) -> list[Round]:
    """Return rounds with and without a save in turn."""
    rounds, steps = list[Round](), 0
    before = [step(trainee, optimizer, store) for _ in range(BETWEEN)]
    for number in range(ROUNDS + 1):
        saves = number % 2 == 0
        during = [step(trainee, optimizer, store, checkpoint.State(step=number + 1) if saves else None)]
        while writing.is_set() if saves else len(during) < steps:
            during.append(step(trainee, optimizer, store))
        store.wait()
        after = [step(trainee, optimizer, store) for _ in range(BETWEEN)]
        rounds.append(Round(saves, costs(during), np.median(costs(before + after), axis=0)))
        before, steps = after, len(during)
        print("a save:" if saves else "none:", rounds[-1].during[:, 0].round(), "ms", flush=True)
    return rounds[1:]


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


def timings(rounds: list[Round]) -> list[Figure]:
    """Return the figures of the steps that no save touches, and of those that each save does."""
    (stall, _, _, waited), (error, *_) = more(rounds, STAGED)
    (whole, loop_cpu, others, _), _ = more(rounds, max(len(one.during) for one in rounds))
    count = np.median([len(one.during) for one in rounds if one.saves])
    low, usually, high = np.quantile([one.usual[0] for one in rounds], [0.25, 0.5, 0.75]).tolist()
    return [
        Figure("checkpoint: stall, staging included", stall, "ms", "", f"<= {TARGET_MS}", stall <= TARGET_MS),
        Figure("checkpoint: standard error of the stall", error, "ms"),
        Figure("checkpoint: of the stall, waiting for the staging copy", waited, "ms"),
        Figure("checkpoint: from its begin until it is written", float(count), "steps"),
        Figure("checkpoint: what all of these take longer", whole, "ms"),
        Figure("checkpoint: of that, CPU time of the loop's thread", loop_cpu, "ms"),
        Figure("checkpoint: CPU time of the thread that copies and writes", others, "ms"),
        Figure("steps without a save: median", usually, "ms"),
        Figure("steps without a save: the middle half of them lies within", high - low, "ms"),
    ]


def more(rounds: list[Round], steps: int) -> tuple[list[float], list[float]]:
    """Return what the first `steps` steps with a save take longer than those of rounds without, in ms [4], and the
    standard error of that [4]: medians', whose error is 1.25 times that of a mean."""
    excess = {
        saves: np.stack([one.excess(steps) for one in rounds if one.saves is saves])
        for saves in (True, False)
    }
    errors = [1.25 * rows.std(axis=0) / len(rows) ** 0.5 for rows in excess.values()]
    difference = np.median(excess[True], axis=0) - np.median(excess[False], axis=0)
    return difference.tolist(), np.hypot(*errors).tolist()


def costs(steps: list[Cost]) -> npt.NDArray[np.float64]:
    """Return what steps took, in ms [steps, 4]."""
    return np.asarray([astuple(step) for step in steps]) * 1e3


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
