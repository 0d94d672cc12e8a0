"""What every contestant shares: the model, the rows, the meter and the held-out loss. Imports nothing of Anneal.

A contestant is a fresh process: `python -m train.NAME JOB.json`, single-threaded, that trains on the job's rows
once and prints one line of JSON, a Result. CPU time is that of the whole process, all threads, read at the end
of every optimizer step; the first step is left out, as it allocates and warms caches.
"""

import json
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from bitsandbytes.nn.modules import Linear4bit

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Job:
    """What is trained: rows [ids, learned flags] of a folder, the model, and constants of the optimizer.

    `packs` are rows as TRL packs them; a step takes `packs_a_step` of them, and where nothing is packed, `batch` rows.
    """

    model: str
    rows: str
    capacity: int
    packs: list[list[int]]
    batch: int
    packs_a_step: int = 1
    rank: int = 16
    alpha: int = 32
    learning_rate: float = 2e-4
    seed: int = 0

    @property
    def steps(self) -> list[list[int]]:
        """The rows of each step where rows are packed."""
        starts = range(0, len(self.packs), self.packs_a_step)
        return [[row for pack in self.packs[a : a + self.packs_a_step] for row in pack] for a in starts]

    @classmethod
    def read(cls) -> "Job":
        """Return the job this process was started with."""
        return cls(**json.loads(Path(sys.argv[-1]).read_text()))


@dataclass(frozen=True)
class Rows:
    """Token rows: ids and learned flags of all, one after another, and where each begins."""

    ids: np.ndarray
    learned: np.ndarray
    offsets: np.ndarray

    @classmethod
    def load(cls, folder: str, name: str) -> "Rows":
        """Return the rows called `name` in `folder`."""
        with np.load(Path(folder) / f"{name}.npz") as file:
            return cls(file["ids"], file["learned"], file["offsets"])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        part = slice(self.offsets[row], self.offsets[row + 1])
        return self.ids[part], self.learned[part]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row."""
        return np.diff(self.offsets)


@dataclass
class Step:
    """One optimizer step: tokens of rows, those learned, positions computed (padding included), CPU and wall s."""

    tokens: int
    learned: int
    positions: int
    cpu: float = 0.0
    wall: float = 0.0
    loss: float = 0.0


@dataclass
class Meter:
    """Stamps the ends of steps; what happens in `paused` costs nothing."""

    steps: list[Step] = field(default_factory=list)
    _cpu: float = field(default_factory=time.process_time)
    _wall: float = field(default_factory=time.perf_counter)

    def stamp(self, step: Step) -> None:
        """End a step."""
        step.cpu, step.wall = time.process_time() - self._cpu, time.perf_counter() - self._wall
        self.steps.append(step)
        self.start()

    def start(self) -> None:
        """Begin the next step now."""
        self._cpu, self._wall = time.process_time(), time.perf_counter()


@dataclass(frozen=True)
class Result:
    """What a contestant prints."""

    steps: list[Step]
    peak: int
    held_out: float

    def print(self) -> None:
        """Write it as the last line of standard output."""
        print(json.dumps(asdict(self)), flush=True)

    @classmethod
    def parse(cls, line: str) -> "Result":
        """Return what a contestant printed."""
        found = json.loads(line)
        return cls([Step(**step) for step in found["steps"]], found["peak"], found["held_out"])

    @property
    def measured(self) -> list[Step]:
        """All steps but the first."""
        return self.steps[1:]

    @property
    def tokens_per_cpu_second(self) -> float:
        """Tokens of rows a second of CPU; padding is no token."""
        return sum(s.tokens for s in self.measured) / sum(s.cpu for s in self.measured)

    @property
    def waste(self) -> float:
        """Share of computed positions that hold no token of a row."""
        return 1 - sum(s.tokens for s in self.steps) / sum(s.positions for s in self.steps)


def peak_memory() -> int:
    """Return the most bytes this process ever had resident (VmHWM)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, "Linux without VmHWM"
    return int(found[1]) * 1024


def adapted(job: Job) -> Any:
    """Return the NF4 model with a fresh float32 adapter: the same weights for everyone, computed in float32."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    transformers.utils.logging.disable_progress_bar()
    quantization = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    base = transformers.AutoModelForCausalLM.from_pretrained(
        job.model,
        dtype=torch.float32,
        quantization_config=quantization,
        attn_implementation="sdpa",
        device_map={"": "cpu"},
        local_files_only=True,
    )
    for layer in base.modules():
        if isinstance(layer, Linear4bit):
            # The repacked weights of this path have no backward pass; nobody may use it.
            layer.support_avx512bf16_for_cpu = False
    torch.manual_seed(job.seed)
    config = peft.LoraConfig(
        r=job.rank, lora_alpha=job.alpha, lora_dropout=0.0, target_modules=LINEAR, task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return peft.get_peft_model(base.requires_grad_(False), config)


def held_out_loss(model: Any, rows: Rows) -> float:
    """Return the mean nll of a learned token, row by row, with no packing and no padding."""
    total, count = 0.0, 0
    with frozen(model):
        for ids, learned in (rows[row] for row in range(len(rows))):
            where = torch.from_numpy(np.flatnonzero(learned))
            logits = model(input_ids=torch.from_numpy(ids.astype(np.int64))[None]).logits[0, where - 1]
            targets = torch.from_numpy(ids.astype(np.int64))[where]
            total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
            count += len(where)
    return total / count


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """Evaluate without gradients, then go on as before."""
    training = model.training
    model.eval()
    with torch.no_grad():
        yield
    model.train(training)


def step_of(rows: Rows, chosen: Sequence[int], positions: int, loss: float = 0.0) -> Step:
    """Return the counts of a step over `chosen` rows."""
    tokens = int(rows.lengths[list(chosen)].sum())
    learned = int(sum(rows[row][1].sum() for row in chosen))
    return Step(tokens, learned, positions, loss=loss)
