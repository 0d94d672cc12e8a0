"""One rank of two: losses, gradients and bytes of a base that is whole, and of one that is divided.

python fsdp_rank.py RANK PORT FOLDER KIND OUTPUT
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from family_models import pack, rows, trainee

from anneal_trainers.base import model
from anneal_trainers.pod.group import Group, join_group, leave_process
from anneal_trainers.training.losses import weighted_cross_entropy

ADDED = {"<middle>": 320}


def measure(made: model.Trainee, group: Group) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss and the gradient of three packs a rank, summed over ranks."""
    made.gradient.zero_()
    total = torch.zeros(1)
    for number in range(3):
        batch = pack(rows((9 + 5 * group.rank, 20 + number, 4)))
        loss, _ = weighted_cross_entropy(
            made.states(batch)[batch.before],
            made.head,
            batch.targets,
            torch.full((len(batch.targets),), 0.01),
            made.head_ids,
            made.head_rows,
        )
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    gradient = made.gradient.clone()
    group.sum(total)
    group.sum(gradient)
    return total, gradient


def layer_bytes(made: model.Trainee) -> int:
    """Return how many bytes of the base's layers this rank holds."""
    layers = made.model.get_base_model().get_decoder().layers
    return sum(_held(p) for n, p in layers.named_parameters() if "lora_" not in n)


def _held(parameter: Any) -> int:
    own: torch.Tensor = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return own.numel() * own.element_size()


def main(rank: int, port: str, folder: str, kind: str, output: str) -> None:
    """Compare both strategies; rank 0 writes what was found."""
    torch.set_num_threads(1)
    group = join_group(rank, 2, f"127.0.0.1:{port}", 60)
    found = {}
    for strategy in ("ddp", "fsdp"):
        made = trainee(Path(folder), kind, added=ADDED, strategy=strategy, group=group)
        if kind == "qlora":
            # As on an accelerator: a layer is gathered again to recompute it on the way back.
            made.model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
        first = measure(made, group)
        made.model.eval()
        with torch.no_grad():
            evaluated = made.states(pack(rows()))
        made.model.train()
        again = measure(made, group)
        found[strategy] = (*first, evaluated, layer_bytes(made), *again)
    whole, divided = found["ddp"], found["fsdp"]
    report = {
        "loss": float(whole[0]),
        "norm": float(whole[1].norm()),
        "differences": [float((whole[i] - divided[i]).abs().max()) for i in (0, 1, 2, 4, 5)],
        "bytes": [whole[3], divided[3]],
    }
    Path(f"{output}.{rank}").write_text(json.dumps(report))
    group.leave()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(int(sys.argv[1]), *sys.argv[2:])
    leave_process(0)
