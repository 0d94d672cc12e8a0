"""Checkpoints: everything a run needs to go on bit for bit.

A checkpoint is a folder `step-<N>`: state.safetensors (adapter and both moments of AdamW, flat) and
state.json, written last, with a sum over both. It holds what the step left: a validation due after that
step is done again by whoever goes on from there, so no time of it counts against a preemption. Dropout is
seeded by (seed, step, rank) and rows by the step's number, so no generator state is needed: the step is
the state of both.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import xxhash
from safetensors.torch import load_file

from anneal_runtime import tensor_file
from anneal_runtime.direct_file import DirectFile
from anneal_runtime.errors import Refused
from anneal_runtime.storage import flush_to_disk, is_local, resolve
from anneal_trainers.records.runs import names_in, storage_away
from anneal_trainers.records.staging import Tensors

STATE, TENSORS = "state.json", "state.safetensors"
Checkpoint = tuple["State", Tensors]
_CODES = {torch.float32: "F32", torch.float64: "F64"}
"""What is trained and its moments are float32 whatever the base computes in, or float64 where exactness is tested."""
_PIECE = 1 << 20
"""Bytes that are hashed and written in turn."""
REMEDY = "go on with the trainers image that began this job, or create the job again"


@dataclass(frozen=True)
class State:
    """What is not a tensor. `step` is the number of finished steps.

    `stage` is the index of the stage in progress, which began after `stage_start` steps; `losses` are those of its
    validations so far. By task, `first_task_losses` are those of what training starts from, `task_losses` those of the
    last validation and `best_task_losses` those of the best one.
    Of each task: `consumed` units and `drawn` tokens taken, its sampling `shares`, `passes` over its rows,
    `task_history` its losses at validations [validations, tasks], `raised_at` the validation its share was
    last raised at. `coba` is CoBa's own state. `sha256` covers every other field
    and the sum of the tensors' file, XXH3 of 128 bits: it finds damage, though not forgery, in a seventh of SHA-256's
    time, in which steps run beside it.
    """

    step: int = 0
    run: str = ""
    stage: int = 0
    stage_start: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    best_step: int = 0
    losses: list[float] = field(default_factory=list)
    first_task_losses: dict[str, float] = field(default_factory=dict)
    task_losses: dict[str, float] = field(default_factory=dict)
    best_task_losses: dict[str, float] = field(default_factory=dict)
    train_loss: float = 0.0
    consumed: list[int] = field(default_factory=list)
    drawn: list[int] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)
    task_history: list[list[float]] = field(default_factory=list)
    raised_at: list[int] = field(default_factory=list)
    coba: dict[str, Any] = field(default_factory=dict)
    layout: str = ""
    sha256: str = ""


def live_tensors(flat: torch.Tensor, optimizer: torch.optim.Optimizer) -> Tensors:
    """Return the adapter and the optimizer's moments themselves, by name: what a checkpoint holds."""
    moments = optimizer.state[optimizer.param_groups[0]["params"][0]]
    tensors = {"adapter": flat} | {n: v for n, v in moments.items() if isinstance(v, torch.Tensor)}
    return {name: tensor.detach() for name, tensor in tensors.items()}


def restore(
    tensors: Mapping[str, torch.Tensor], flat: torch.Tensor, optimizer: torch.optim.Optimizer
) -> None:
    """Put saved tensors back in place; `flat` keeps its memory, of which the adapter's tensors are views."""
    flat.copy_(tensors["adapter"])
    parameter = optimizer.param_groups[0]["params"][0]
    optimizer.state[parameter] = {
        name: tensor.to(flat.device, copy=True) for name, tensor in tensors.items() if name != "adapter"
    }


def write(uri: str, state: State, tensors: Tensors) -> None:
    """Write one checkpoint; it appears whole."""
    if not is_local(uri):
        with TemporaryDirectory() as scratch:
            folder = _fill(Path(scratch), state, tensors)
            filesystem, path = resolve(uri)
            for name in (TENSORS, STATE):
                filesystem.put_file(str(folder / name), f"{path}/{name}")
        return
    target = Path(resolve(uri)[1])
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    partial.mkdir(parents=True, exist_ok=True)
    _fill(partial, state, tensors)
    flush_to_disk(partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    for folder in (target.parent, target.parent.parent):  # or the name is lost, and what was pruned for it
        flush_to_disk(folder)


def load(uri: str, run: str) -> Checkpoint | None:
    """Return the checkpoint at `uri`, or None when it is damaged, unfinished or of another run.

    Raises:
        TryAgain: the storage fails; an older checkpoint must not be taken for that.
        Refused: it is whole, and of a build that keeps other things.
    """
    filesystem, path = resolve(uri)
    damage = (FileNotFoundError, ValueError, TypeError, KeyError)
    with storage_away(uri), contextlib.suppress(*damage), TemporaryDirectory() as scratch:
        written: dict[str, Any] = json.loads(filesystem.cat_file(f"{path}/{STATE}"))
        file = Path(path, TENSORS) if is_local(uri) else Path(scratch, TENSORS)
        if not is_local(uri):
            filesystem.get_file(f"{path}/{TENSORS}", str(file))
        if written["run"] == run and _digest(written, sum_of(file)) == written["sha256"]:
            return _state(uri, written), load_file(file)
    return None


def _state(uri: str, written: dict[str, Any]) -> State:
    known = {part.name for part in fields(State)}
    if other := sorted(known ^ set(written)):
        raise Refused(
            "OtherBuild",
            f"{uri}: {', '.join(other)} is in this checkpoint or in this build's, not in both: another build wrote "
            f"it; {REMEDY}",
        )
    return State(**written)


def _fill(folder: Path, state: State, tensors: Tensors) -> Path:
    digest = _stream(folder / TENSORS, tensors)
    whole: dict[str, Any] = asdict(replace(state, sha256=_digest(asdict(state), digest)))
    flush_to_disk(folder / TENSORS)
    (folder / STATE).write_text(json.dumps(whole))
    flush_to_disk(folder / STATE)
    return folder


def _stream(path: Path, tensors: Tensors) -> str:
    """Write a safetensors file and return its sum: each piece is summed while the processor's cache holds it.

    It is the sum of what was to be written, not of what a read of the file would give.
    """
    ordered = dict(sorted(tensors.items()))
    specs = {n: tensor_file.Spec(_CODES[t.dtype], t.itemsize, tuple(t.shape)) for n, t in ordered.items()}
    digest = xxhash.xxh3_128()
    with DirectFile(path) as file:
        for piece in itertools.chain([tensor_file.begin(specs)[0]], *map(_pieces, ordered.values())):
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def _pieces(tensor: torch.Tensor) -> Iterator[bytes | memoryview]:
    content = tensor.reshape(-1).view(torch.uint8).numpy()
    return (content[start : start + _PIECE].data for start in range(0, len(content), _PIECE))


def sum_of(file: Path) -> str:
    """Return the sum of a tensors' file: XXH3 of 128 bits, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, xxhash.xxh3_128).hexdigest()


def _digest(written: Mapping[str, Any], tensors: str) -> str:
    content = json.dumps({**written, "sha256": ""}, sort_keys=True)
    return hashlib.sha256(f"{content}\n{tensors}".encode()).hexdigest()


def name_of(step: int) -> str:
    """Return the folder a step's checkpoint is in."""
    return f"step-{step:08d}"


def steps_in(folder: str) -> list[int]:
    """Return the steps of the checkpoints in `folder`, ascending; it holds other things too."""
    return sorted(step_of(name) for name in names_in(folder) if re.fullmatch(r"step-\d{8,}", name))


def step_of(uri: str) -> int:
    """Return the step of the checkpoint at `uri`."""
    return int(uri.rsplit("step-", 1)[1])
