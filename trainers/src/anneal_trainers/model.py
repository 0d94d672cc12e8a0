"""The base model (NF4 or plain) with a low-rank adapter whose weights and gradients lie in two flat buffers.

One flat buffer means one all-reduce a step in a fixed layout, one tensor for the optimizer, one for a
checkpoint. bitsandbytes repacks NF4 weights for AVX512-BF16 at the first forward pass in evaluation mode, which
has no backward: later gradients would be wrong, so that path is switched off on every layer.
"""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from bitsandbytes.nn.modules import Linear4bit

from anneal_api.finetunejob import Adapter
from anneal_trainers.base_model import LINEAR
from anneal_trainers.batches import Batch
from anneal_trainers.losses import weighted_cross_entropy


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

    def losses(self, batch: Batch, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weighted loss of a batch and the nll of every target."""
        states = self.states(batch)[batch.before]
        return weighted_cross_entropy(states, self.head, batch.targets, weights)


def hidden_states(model: Any, batch: Batch) -> torch.Tensor:
    """Return the last hidden states, [batch * positions, hidden size]."""
    base: Any = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    decoder: Any = base.get_decoder()
    output = decoder(
        input_ids=batch.ids, position_ids=batch.positions, attention_mask=batch.mask, use_cache=False
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
    """Return bf16 on an accelerator; float32 on CPUs, of which many have no bf16 and all must agree."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def load_base(folder: Path, *, quantized: bool, device: torch.device, dtype: torch.dtype) -> Any:
    """Return the frozen base model, its linear layers in NF4 with double quantisation when `quantized`."""
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    config = transformers.BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        quantization_config=config if quantized else None,
        attn_implementation="sdpa",
        device_map={"": device},
        local_files_only=True,
    )
    for layer in quantized_layers(model).values():
        layer.support_avx512bf16_for_cpu = False
    return model.requires_grad_(False)


def quantized_layers(model: Any) -> dict[str, Any]:
    """Return the NF4 layers of a model by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, Linear4bit)}


def add_adapter(base: Any, adapter: Adapter, seed: int) -> Any:
    """Return `base` with a fresh adapter in float32, the same on every rank that passes the same seed."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,  # type: ignore[arg-type]  # a float works: it is only divided
        lora_dropout=adapter.dropout,
        target_modules=list(adapter.targets or LINEAR),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft asks transformers for an attribute by its former name.
        warnings.simplefilter("ignore", FutureWarning)
        return peft.get_peft_model(base, config)


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
    return Trainee(model, [name for name, _ in trainable], flat, gradient)


def build(folder: Path, adapter: Adapter, seed: int, device: torch.device) -> Trainee:
    """Load the base, add the adapter, flatten it, ready to train."""
    dtype = compute_type(device)
    base = load_base(folder, quantized=adapter.type == "qlora", device=device, dtype=dtype)
    if device.type == "cuda":
        # Recompute activations layer by layer: what the memory plan assumes. A CPU has memory, not flops.
        base.gradient_checkpointing_enable({"use_reentrant": False})
        base.enable_input_require_grads()
    return flatten(add_adapter(base, adapter, seed).train())
