"""The base model (NF4 or plain) with what is trained, whose values and gradients lie in two flat buffers.

One flat buffer means one all-reduce a step in a fixed layout, one tensor for the optimizer, one for a
checkpoint. It is whole on every rank under both strategies: FSDP2 divides the frozen base alone, so a loop, its
checkpoints and its sums know nothing of the strategy, except that layers are gathered in each pass: every
rank must make as many passes forward and backward as the others.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from anneal_api.finetunejob import Adapter
from anneal_trainers.base import adapters, added_tokens, weights
from anneal_trainers.base.libraries import peft
from anneal_trainers.data.batches import Batch
from anneal_trainers.pod.group import Group

Strategy = Literal["ddp", "fsdp"]
BF16_SINCE = (8, 0)
"""The compute capability that multiplies in bf16: Ampere's (CUDA C++ Programming Guide, compute capabilities)."""


@dataclass
class Trainee:
    """A model in training: `flat` and `gradient` are what its trainable tensors are views of, in order of name.

    `head_ids` [added] are the ids of tokens the base did not have, `head_rows` [added, hidden] their trained
    rows as the output sees them; None where no token was added.
    """

    model: Any
    names: list[str]
    flat: torch.Tensor
    gradient: torch.Tensor
    head_ids: torch.Tensor | None = None
    head_rows: torch.Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.flat.device

    @property
    def head(self) -> torch.Tensor:
        """The frozen output embedding [vocabulary, hidden]; rows of added tokens have their values of now."""
        weight: torch.Tensor = self.model.get_base_model().get_output_embeddings().weight
        if self.head_ids is not None and self.head_rows is not None:
            with torch.no_grad():
                weight[self.head_ids] = self.head_rows.to(weight.dtype)
        return weight

    def states(self, batch: Batch) -> torch.Tensor:
        """Return the last hidden states of a batch, [batch * positions, hidden]."""
        return hidden_states(self.model, batch)

    def use(self, flat: torch.Tensor) -> None:
        """Compute with the weights in `flat` from now on: nothing is copied, gradients stay where they are."""
        parameters = dict(self.model.named_parameters())
        start = 0
        for name in self.names:
            part = slice(start, start + parameters[name].numel())
            parameters[name].data = flat[part].view(parameters[name].shape)
            start = part.stop


def hidden_states(model: Any, batch: Batch) -> torch.Tensor:
    """Return the last hidden states, [batch * positions, hidden size].

    Over a base in bf16 the adapter's float32 weights are multiplied in bf16 too: in float32 they would take
    more time than the base.
    """
    base: Any = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    kind = base.get_input_embeddings().weight.dtype
    with torch.autocast(batch.ids.device.type, torch.bfloat16, enabled=kind == torch.bfloat16):
        output = base.get_decoder()(
            input_ids=batch.ids, position_ids=batch.positions, bounds=batch.bounds, use_cache=False
        )
    states: torch.Tensor = output.last_hidden_state
    return states.reshape(-1, states.shape[-1])


def pick_device(local_rank: int) -> torch.device:
    """Return this rank's accelerator, or the CPU with OMP_NUM_THREADS threads.

    One thread unless told otherwise: on cores that others use too, two threads that wait for each other
    at every layer are many times slower than one.
    """
    if not torch.cuda.is_available():
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def compute_type(device: torch.device) -> torch.dtype:
    """Return bf16 on an accelerator that has it; float32 on others and on CPUs, which must all agree."""
    has_bf16 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= BF16_SINCE
    return torch.bfloat16 if has_bf16 else torch.float32


def assemble(
    folder: Path,
    adapter: Adapter,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    added: Mapping[str, int],
) -> Any:
    """Return the base in `folder` with a fresh adapter, and rows for `added` tokens (id by token)."""
    base = weights.load_base(folder, quantized=adapter.type == "qlora", device=device, dtype=dtype)
    model = adapters.add(base, adapter, seed)
    added_tokens.add(base, added, seed)
    model.peft_config["default"].trainable_token_indices = added_tokens.token_indices(base)
    return model


def flatten(model: Any) -> Trainee:
    """Return the trainee whose trainable tensors have been moved into flat buffers, in order of name."""
    trainable = sorted((n, p) for n, p in model.named_parameters() if p.requires_grad)
    flat = torch.cat([p.detach().reshape(-1).float() for _, p in trainable])
    gradient = torch.zeros_like(flat)
    start = 0
    for _, parameter in trainable:
        part = slice(start, start + parameter.numel())
        parameter.data = flat[part].view(parameter.shape)
        parameter.grad = gradient[part].view(parameter.shape)
        start = part.stop
    rows = added_tokens.head_rows(model.get_base_model())
    return Trainee(
        model,
        [name for name, _ in trainable],
        flat,
        gradient,
        None if rows is None else rows.ids,
        None if rows is None else rows.values,
    )


def shard(model: Any, device: torch.device, world: int) -> None:
    """Divide the frozen base's layers between the ranks by FSDP2: a layer is whole only while it computes.

    Embeddings stay whole, as the loss takes the head by rows; so do the scales of NF4, a thirtieth of it.
    Every rank loads the whole base first.
    """
    mesh = init_device_mesh(device.type, (world,))
    decoder = model.get_base_model().get_decoder()
    trained = {p for p in decoder.parameters() if p.requires_grad}
    for layer in decoder.layers:
        fully_shard(layer, mesh=mesh, ignored_params=trained)
    # The root gathers nothing of its own: it makes the layers one chain, of which the next is gathered early.
    whole = {p for p in decoder.parameters() if not isinstance(p, DTensor)}
    fully_shard(decoder, mesh=mesh, ignored_params=whole)


def build(
    folder: Path,
    adapter: Adapter,
    seed: int,
    device: torch.device,
    *,
    added: Mapping[str, int] = {},
    init_from: Path | None = None,
    strategy: Strategy = "ddp",
    group: Group | None = None,
) -> Trainee:
    """Load the base, add the adapter, flatten it, ready to train.

    Args:
        added: ids of the tokens the base has no trained embedding for.
        init_from: folder of an earlier adapter to go on from.
        strategy: fsdp divides the base between the ranks of `group`.
    """
    model = assemble(folder, adapter, seed, device, compute_type(device), added)
    if init_from is not None:
        adapters.put(model, init_from, missing="token_adapter")
    if device.type == "cuda":
        # Recompute activations layer by layer: what the memory plan assumes. A CPU has memory, not flops.
        base = model.get_base_model()
        base.gradient_checkpointing_enable({"use_reentrant": False})
        base.enable_input_require_grads()
    trainee = flatten(model.train())
    if strategy == "fsdp" and group is not None and group.world > 1:
        shard(model, device, group.world)
    return trainee
