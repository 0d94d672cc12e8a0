"""What a model needs of an accelerator, as arithmetic on its shape; refused plans carry the arithmetic.

Sources of the terms: QLoRA (arXiv 2305.14314) for NF4 with double quantisation (4.127 bits a weight),
AdamW's two float32 moments, TensorRT-LLM's W4A16 layout for INT4 (4 bits and a float16 scale a group).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from anneal_api.base import Model

GIB = 1024**3
NF4_BITS = 4.127
LOGIT_CHUNK = 256
"""Targets whose logits the trainer holds at a time (anneal_trainers.training.losses.CHUNK; a test keeps them equal)."""


class ModelShape(Model):
    """The sizes of a decoder of the Llama family."""

    architecture: str = Field(description="Such as LlamaForCausalLM.")
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    max_positions: int
    tied: bool = Field(description="Whether input and output embeddings are one tensor.")

    @property
    def linear_parameters(self) -> int:
        """Weights of all linear layers of all blocks."""
        attention = self.hidden * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def embedding_parameters(self) -> int:
        """Weights of the input embedding, and of the head where it is not tied."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of float16 keys and values one token holds in the cache."""
        return self.layers * 2 * self.kv_heads * self.head_size * 2

    def adapter_parameters(self, rank: int, targets: Sequence[str] = ()) -> int:
        """Weights of an adapter of `rank` on the linear layers named, or on all of them."""
        q, kv = self.heads * self.head_size, self.kv_heads * self.head_size
        sizes = {"q_proj": self.hidden + q, "k_proj": self.hidden + kv, "v_proj": self.hidden + kv}
        sizes |= {"o_proj": q + self.hidden}
        sizes |= dict.fromkeys(("gate_proj", "up_proj", "down_proj"), self.hidden + self.intermediate)
        return self.layers * rank * sum(sizes[name] for name in targets or sizes)


@dataclass(frozen=True)
class Plan:
    """Named terms in bytes against what there is."""

    terms: tuple[tuple[str, float], ...]
    available: float

    @property
    def needed(self) -> float:
        """Sum of the terms in bytes."""
        return sum(size for _, size in self.terms)

    @property
    def fits(self) -> bool:
        """Whether the sum is within what there is."""
        return self.needed <= self.available

    @property
    def arithmetic(self) -> str:
        """The sum in words, in GiB."""
        terms = " + ".join(f"{name} {size / GIB:.2f}" for name, size in self.terms)
        return f"{terms} = {self.needed / GIB:.2f} GiB of {self.available / GIB:.2f} GiB"


@dataclass(frozen=True)
class Site:
    """Where training runs, as far as memory is concerned.

    float_bytes: width of compute: 2 for bf16, 4 for float32.
    recompute: whether a layer's inner values are computed again in the backward pass instead of kept.
    runtime: bytes of the process before there is a model: libraries, and the driver's context of an accelerator.
    heap: bytes the allocator holds for a byte in use, of the values that come and go in a step.
    staging: whether the copies of a checkpoint lie in the same memory.
    """

    float_bytes: int
    recompute: bool
    runtime: float
    heap: float
    staging: bool


CPU = Site(float_bytes=4, recompute=False, runtime=0.75 * GIB, heap=2.0, staging=True)
"""Measured: torch, transformers, peft and bitsandbytes take 0.75 GiB once imported. glibc's aligned allocation asks
for more than it frees, so a freed block seldom fits an equal one: it holds 1.7 to 2.2 times what is in use."""

ACCELERATOR = Site(float_bytes=2, recompute=True, runtime=1.0 * GIB, heap=1.1, staging=False)
"""A CUDA context with the kernels and workspaces of cuBLAS is 0.5 to 1 GiB; the caching allocator reuses blocks and
loses a tenth to rounding. Checkpoints are staged in the host's pinned memory."""


def training_plan(
    shape: ModelShape,
    site: Site,
    *,
    quantized: bool,
    rank: int,
    targets: Sequence[str] = (),
    tokens: int,
    memory_gib: float,
    sharded_by: int = 1,
    references: int = 0,
) -> Plan:
    """Plan the memory of one rank in a step over micro-batches of `tokens` positions.

    Args:
        targets: linear layers with an adapter; all of them when empty.
        sharded_by: ranks the base's layers are divided between (strategy fsdp); 1 keeps them whole (ddp).
        references: copies of the adapter held beside the trained one (DPO's frozen reference is one).

    With `ddp` the step is the largest moment. Under fsdp every rank loads the whole base before it is divided,
    and that may be larger: the plan is that of the larger moment.
    """
    adapter = shape.adapter_parameters(rank, targets)
    step = _step(shape, site, quantized, rank, adapter, tokens, sharded_by, references)
    loading = (("runtime", site.runtime), ("whole base while loading", _base(shape, site, quantized, 1)))
    larger = max((step, loading), key=lambda terms: sum(size for _, size in terms))
    return Plan(larger, memory_gib * GIB)


def _step(
    shape: ModelShape,
    site: Site,
    quantized: bool,
    rank: int,
    adapter: int,
    tokens: int,
    sharded_by: int,
    references: int,
) -> tuple[tuple[str, float], ...]:
    # Values, gradients and two moments in float32; a copy in the width of compute where that is less.
    trained = adapter * (16 + 4 * references + (site.float_bytes if site.float_bytes < 4 else 0))
    return (
        ("runtime", site.runtime),
        ("weights", _base(shape, site, quantized, sharded_by)),
        ("adapter, gradients, AdamW", float(trained)),
        ("checkpoint's copy", float(adapter * 12 if site.staging else 0)),
        ("activations", site.heap * tokens * site.float_bytes * _kept(shape, site, rank)),
        ("one layer backward", site.heap * _backward(shape, site, quantized, rank, tokens)),
        ("logits", site.heap * _logits(shape, tokens)),
    )


def _base(shape: ModelShape, site: Site, quantized: bool, sharded_by: int) -> float:
    """Return bytes of the frozen base on a rank: two layers are whole at a time where it is divided."""
    linear = shape.linear_parameters * (NF4_BITS / 8 if quantized else site.float_bytes)
    gathered = 0 if sharded_by == 1 else min(2, shape.layers) / shape.layers * linear
    return linear / sharded_by + gathered + shape.embedding_parameters * site.float_bytes


def _kept(shape: ModelShape, site: Site, rank: int) -> int:
    """Return the values a position keeps from the forward pass to the backward pass, over all layers.

    With recomputation each layer keeps its input, [hidden]. Without, each keeps what its derivatives need (_inner).
    """
    return shape.layers * (shape.hidden if site.recompute else _inner(shape, rank))


def _inner(shape: ModelShape, rank: int) -> int:
    """Return the values of one position that the derivatives of one layer need.

    Two norms keep their input and give the input of adapters (4 hidden); attention keeps rotated queries, keys, values,
    its output by document and joined, and a normaliser a head; the gated unit keeps gate, its activation, up and
    their product; each of the seven adapters keeps its `rank` inner values. Frozen weights need no input of theirs.
    """
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    attention = 3 * queries + 2 * keys + shape.heads
    return 4 * shape.hidden + attention + 4 * shape.intermediate + 7 * rank


def _backward(shape: ModelShape, site: Site, quantized: bool, rank: int, tokens: int) -> float:
    """Return bytes in use while one layer's gradients are made.

    Gradients of the gated unit's four values and of four of the layer's width; its largest weight in full where
    it is NF4; and what recomputation brings back: the layer's inner values, norms in float32.
    """
    gradients = 4 * shape.intermediate + 4 * shape.hidden
    again = _inner(shape, rank) + 4 * shape.hidden if site.recompute else 0
    weight = shape.hidden * shape.intermediate if quantized else 0
    return float(site.float_bytes * (tokens * (gradients + again) + weight))


def _logits(shape: ModelShape, tokens: int) -> float:
    """Return bytes of the logits of one chunk of targets: three copies in float32 while they are reduced."""
    return float(min(tokens, LOGIT_CHUNK) * shape.vocabulary * 4 * 3)


def serving_plan(
    shape: ModelShape, *, group: int | None, sequence: int, batch: int, memory_gib: float
) -> Plan:
    """Plan one replica's memory: weights (INT4 with `group`, or float16), and the KV cache.

    The cache is planned for `batch` sequences of `sequence` tokens; runtime and activations
    are taken as 1.25 GiB, the middle of what TensorRT-LLM 1.2 needs on an A10.
    """
    bits = 16 if group is None else 4 + 16 / group
    return Plan(
        (
            ("weights", shape.linear_parameters * bits / 8 + shape.embedding_parameters * 2),
            ("KV cache", float(batch * sequence * shape.kv_bytes_per_token)),
            ("runtime", 1.25 * GIB),
        ),
        memory_gib * GIB,
    )
