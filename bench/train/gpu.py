"""`make bench-train.gpu`: the CUDA path against the same loop in plain transformers and peft.

Randomly initialised Llamas of 1B to 8B in NF4, bf16 compute, packs of 4,096 tokens with the reference's lengths,
layers recomputed in the backward pass on both sides. The plain loop is packed, too: position ids that start anew, the
library's own sdpa attention and loss. Where there is no CUDA device this ends with exit code 69 (EX_UNAVAILABLE).
"""

import gc
import itertools
import statistics
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import peft
import torch
import transformers
from report import Figure, record

from anneal_api.finetunejob import Checkpoint
from anneal_api.memory import ModelShape
from anneal_runtime import model_shape
from anneal_trainers.base import base_model, model, weights
from anneal_trainers.data.packing import best_fit_decreasing
from anneal_trainers.pod.group import Group
from anneal_trainers.records.store import Store
from anneal_trainers.training import loop
from anneal_trainers.training.run import Run, StopFlag
from train import flops, rows
from train.measure import LINEAR, Job, Meter, Rows, Step, step_of
from train.ours import Stamps, make_spec, split

LLAMA_1B = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
}
LLAMA_3B = {
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
}
LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
COMMON = {"num_key_value_heads": 8, "vocab_size": 128_256, "max_position_embeddings": 8192}
SIZES = {"1B": LLAMA_1B | COMMON, "3B": LLAMA_3B | COMMON, "8B": LLAMA_8B | COMMON}
PACKS_A_STEP, STEPS = 4, 12
SAVE_EVERY = 4
UNAVAILABLE = 69
PLAIN = "transformers + peft"


@dataclass(frozen=True)
class Work:
    """What both loops do, and where."""

    job: Job
    rows: Rows
    device: torch.device

    @property
    def shape(self) -> ModelShape:
        """The model's sizes."""
        return model_shape.shape_of(base_model.read_config(f"file://{self.job.model}"))


def main() -> None:
    """Measure every size, both ways, and record it."""
    if not torch.cuda.is_available():
        print("bench/train/gpu.py measures the CUDA path, and there is no CUDA device here", file=sys.stderr)
        sys.exit(UNAVAILABLE)
    shown: list[Figure] = []
    for name, sizes in SIZES.items():
        with TemporaryDirectory() as scratch:
            shown += figures(name, make_work(Path(scratch), sizes, rows.FULL, model.pick_device(0)))
    record("train-gpu", shown)


def make_work(folder: Path, sizes: dict[str, int], capacity: int, device: torch.device) -> Work:
    """Write a random model and rows into `folder`."""
    torch.manual_seed(0)
    with device:
        made = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).to(torch.bfloat16)
    made.save_pretrained(folder / "base")
    del made
    lengths = rows.lengths(PACKS_A_STEP * STEPS * 6, capacity, 0)
    ids = np.random.default_rng(0).integers(0, sizes["vocab_size"], 2 * int(lengths.sum()))
    rows.write(folder, "train", ids, lengths, seed=0, all_learned=False)
    packs = best_fit_decreasing(lengths.tolist(), capacity)[: PACKS_A_STEP * STEPS]
    job = Job(str(folder / "base"), str(folder), capacity, packs, 1, packs_a_step=PACKS_A_STEP)
    return Work(job, Rows.load(str(folder), "train"), device)


def figures(name: str, work: Work) -> list[Figure]:
    """Return the figures of both loops at one size."""
    shown, taken = [], {}
    for who, train in (("anneal", train_ours), (PLAIN, train_plain)):
        with peak_of(work.device) as peak:
            taken[who] = steps = train(work)
        shown.append(Figure(f"{name} {who}: tokens a second", throughput(steps), "tokens/s"))
        if (limit := flops.peak_of(device_name(work.device))) is not None:
            shown.append(Figure(f"{name} {who}: MFU", rate(work, steps) / limit, "share of peak bf16"))
        shown.append(Figure(f"{name} {who}: peak memory", peak[0] / 2**30, "GiB"))
    ours, plain = taken.values()
    ratio = throughput(ours) / throughput(plain)
    drift = max(abs(a.loss - b.loss) for a, b in zip(ours, plain, strict=True))
    seconds = stall(ours)
    return [
        *shown,
        Figure(f"{name}: tokens a second over the plain loop's", ratio, "ratio", PLAIN),
        Figure(f"{name}: a step's loss differs from the plain loop's by at most", drift, "nats/token", PLAIN),
        Figure(f"{name} anneal: checkpoint stall", seconds * 1e3, "ms", "", "<= 50", seconds <= 0.05),
    ]


def train_ours(work: Work) -> list[Step]:
    """Train with the loop itself, saving every SAVE_EVERY steps."""
    often = Checkpoint(every_steps=SAVE_EVERY)
    spec = make_spec(work.job).model_copy(update={"checkpoint": often})
    trainee = model.build(Path(work.job.model), spec.adapter, work.job.seed, work.device)
    meter = Meter()
    with TemporaryDirectory() as scratch:
        run = Run(
            spec=spec,
            tasks=["mix"],
            train=split(work.rows, work.job.packs),
            validation=split(work.rows, []),
            trainee=trainee,
            group=Group(),
            store=Store(f"file://{scratch}", 1, "bench", 1),
            channel=Stamps(meter, counts(work)),
            stop=StopFlag(),
        )
        meter.start()
        loop.train(run)
    return meter.steps


def train_plain(work: Work) -> list[Step]:
    """Train with transformers and peft alone: the same packs, sums of losses over a step divided by its targets."""
    job = work.job
    network = plain_model(job, work.device)
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=job.learning_rate, weight_decay=0.0, fused=True)
    meter = Meter()
    packs = iter(job.packs)
    for step in counts(work):
        for pack in itertools.islice(packs, job.packs_a_step):
            loss = loss_of(network, work, pack, step.learned)
            loss.backward()
            step.loss += loss.item()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        synchronize(work.device)
        meter.stamp(step)
    return meter.steps


def plain_model(job: Job, device: torch.device) -> Any:
    """Return the quantised model with peft's adapter, as their documentation makes it."""
    kind = model.compute_type(device)
    quantization = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=kind,
    )
    base = transformers.AutoModelForCausalLM.from_pretrained(
        job.model,
        dtype=kind,
        quantization_config=quantization,
        device_map={"": device},
        attn_implementation="sdpa",
        local_files_only=True,
    )
    for layer in weights.quantized_layers(base).values():
        layer.support_avx512bf16_for_cpu = False
    base.activation_checkpointing_enable({"use_reentrant": False})
    base.enable_input_require_grads()
    torch.manual_seed(job.seed)
    adapter = peft.LoraConfig(r=job.rank, lora_alpha=job.alpha, target_modules=LINEAR, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        # peft asks transformers for an attribute by its former name.
        warnings.simplefilter("ignore", FutureWarning)
        return peft.get_peft_model(base, adapter).train()


def loss_of(network: Any, work: Work, pack: list[int], targets: int) -> torch.Tensor:
    """Return a pack's part of the step's mean loss."""
    pairs = [work.rows[row] for row in pack]
    ids = np.concatenate([ids for ids, _ in pairs]).astype(np.int64)
    learned = np.concatenate([learned for _, learned in pairs])
    positions = np.concatenate([np.arange(len(ids)) for ids, _ in pairs])
    named = {"input_ids": ids, "position_ids": positions, "labels": np.where(learned, ids, -100)}
    batch = {name: torch.from_numpy(values)[None].to(work.device) for name, values in named.items()}
    kind = model.compute_type(work.device)
    with torch.autocast(work.device.type, torch.bfloat16, enabled=kind == torch.bfloat16):
        loss: torch.Tensor = network(**batch, use_cache=False, num_items_in_batch=targets).loss
    return loss


def counts(work: Work) -> list[Step]:
    """Return what each step holds."""
    return [step_of(work.rows, step, int(work.rows.lengths[step].sum())) for step in work.job.steps]


def throughput(steps: list[Step]) -> float:
    """Return tokens a second at the median step after the first."""
    return statistics.median(step.tokens / step.wall for step in steps[1:])


def rate(work: Work, steps: list[Step]) -> float:
    """Return operations a second at the median step after the first."""
    pairs = list(zip(work.job.steps, steps, strict=True))[1:]
    shape, lengths = work.shape, work.rows.lengths
    return statistics.median(
        flops.of_step(shape, work.job.rank, lengths[chosen].tolist(), step.learned) / step.wall
        for chosen, step in pairs
    )


def stall(steps: list[Step]) -> float:
    """Return the seconds a save costs: the step it is called in and the next one, less two median steps."""
    saving = [n for n in range(len(steps) - 1) if (n + 1) % SAVE_EVERY == 0]
    touched = {n + k for n in saving for k in (0, 1)}
    usual = statistics.median(s.wall for n, s in enumerate(steps) if n > 0 and n not in touched)
    return statistics.median(steps[n].wall + steps[n + 1].wall - 2 * usual for n in saving)


@contextmanager
def peak_of(device: torch.device) -> Iterator[list[float]]:
    """Measure the most device memory held inside the block: one number, filled in at its end; 0 without a device."""
    found = [0.0]
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    yield found
    if device.type == "cuda":
        found[0] = float(torch.cuda.max_memory_allocated(device))


def device_name(device: torch.device) -> str:
    """Return the device's name as its driver gives it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
