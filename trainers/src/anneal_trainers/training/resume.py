"""Where a run goes on: rank 0 decides for the newest checkpoint, and all ranks restore that very one."""

import hashlib
import json

import torch

from anneal_runtime.errors import Refused, TryAgain
from anneal_trainers.base.model import Trainee
from anneal_trainers.pod.group import Group
from anneal_trainers.records import checkpoint
from anneal_trainers.records.store import Store


def resume(
    store: Store, group: Group, trainee: Trainee, optimizer: torch.optim.Optimizer
) -> checkpoint.State | None:
    """Restore the newest checkpoint and return its state; None when there is none.

    Raises:
        TryAgain: a rank cannot read it.
        Refused: it is of another build, or of another adapter.
    """
    found = store.newest() if group.rank == 0 else None
    # Only rank 0 holds anything but zeros, so the sum is a broadcast.
    choice = torch.zeros(33, dtype=torch.float64, device=trainee.device)
    if found is not None:
        choice[0] = found[0].step
        choice[1:] = torch.tensor(list(bytes.fromhex(found[0].sha256)), dtype=torch.float64)
    group.sum(choice)
    step, digest = int(choice[0]), bytes(choice[1:].int().tolist()).hex()
    if step == 0:
        return None
    if group.rank != 0:
        found = store.at(step, digest)
    readers = torch.tensor([float(found is not None)], device=trainee.device)
    group.sum(readers)
    if found is None or int(readers) < group.world:
        raise TryAgain(
            "CheckpointUnreadable",
            f"only {int(readers)} of {group.world} ranks can read the checkpoint of step {step}",
        )
    state, tensors = found
    if state.layout != layout(trainee):
        raise Refused(
            "OtherLayout",
            f"the checkpoint of step {step} holds {state.layout}; this run's adapter has {layout(trainee)}: "
            f"another build wrote it, or for another adapter; {checkpoint.REMEDY}",
        )
    checkpoint.restore(tensors, trainee.flat, optimizer)
    return state


def layout(trainee: Trainee) -> str:
    """Return the order of tensors in the flat buffer, which a checkpoint is only valid for."""
    shapes = {name: list(tensor.shape) for name, tensor in trainee.model.named_parameters()}
    order = json.dumps([(name, shapes[name]) for name in trainee.names])
    digest = hashlib.sha256(order.encode()).hexdigest()
    return f"{len(trainee.names)} tensors, {trainee.flat.numel()} weights, names and shapes {digest[:16]}"
