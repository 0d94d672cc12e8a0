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


BATCH_TOKENS = 2048
"""Tokens of one step of a TensorRT-LLM engine over all sequences: longer prompts go in chunks."""
CPU_BATCH_TOKENS = 256
"""The same of OpenVINO's server (anneal_serving.triton.scheduler.PREFILL_TOKENS; a test keeps them equal)."""
KV_FRACTION = 0.9
"""Share of what is left after weights, runtime and activations that a TensorRT-LLM engine takes for its KV cache."""
CUDA_RUNTIME = 0.75 * GIB
"""A driver's context with the kernels and workspaces of TensorRT-LLM."""
CPU_RUNTIME = 0.5 * GIB
"""Triton, its Python stub and OpenVINO with a compiled graph."""


def cache_bytes(shape: ModelShape, *, int8: bool) -> int:
    """Return bytes that a token's keys and values take; in eight bits, a float32 scale and zero point a head too.

    The latter is what OpenVINO's CPU plugin keeps (its `u8` precision, by token).
    """
    heads = shape.layers * 2 * shape.kv_heads
    return heads * (shape.head_size + 8) if int8 else shape.kv_bytes_per_token


@dataclass(frozen=True)
class ServingPlan:
    """One accelerator's memory of a replica: what is fixed, and how many tokens the rest holds.

    Attributes:
        fixed: weights, runtime and activations of this accelerator.
        token_bytes: what a token's keys and values take of it.
        sequence, batch: the limits asked for.
        fraction: share of what is left that becomes the KV cache.
        reserved: whether the cache of all `batch` sequences is taken when the server starts.
    """

    fixed: Plan
    token_bytes: float
    sequence: int
    batch: int
    fraction: float
    reserved: bool

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache holds."""
        left = (self.fixed.available - self.fixed.needed) * self.fraction
        return max(0, int(left / self.token_bytes))

    @property
    def guaranteed_batch(self) -> int:
        """Sequences of full length that are held at once, whatever they turn out to need."""
        return min(self.batch, self.kv_tokens // self.sequence)

    @property
    def guaranteed_length(self) -> int:
        """Longest sequence that as many as `batch` may all reach at once."""
        return min(self.sequence, self.kv_tokens // self.batch)

    @property
    def fits(self) -> bool:
        """Whether it can serve: one sequence of full length, or all of them where the cache is taken at once."""
        return self.guaranteed_batch >= (self.batch if self.reserved else 1)

    @property
    def oversubscribed(self) -> bool:
        """Whether sequences wait for room in the cache when all slots are long."""
        return self.guaranteed_batch < self.batch

    @property
    def arithmetic(self) -> str:
        """What is needed against what there is, in words."""
        wanted = self.batch * self.sequence
        cache = self.token_bytes * (wanted if self.reserved else self.sequence)
        need = Plan((*self.fixed.terms, ("KV cache", cache / self.fraction)), self.fixed.available)
        return f"{need.arithmetic}; {self._cache()}"

    def _cache(self) -> str:
        held = f"{self.kv_tokens} KV tokens at {self.token_bytes / 1024:.0f} KiB"
        if not self.fits:
            return f"room for {held}"
        whole = f"{held}: {self.guaranteed_batch} of {self.batch} sequences of {self.sequence} guaranteed"
        if not self.oversubscribed:
            return whole
        return f"{whole}, {self.batch} of {self.guaranteed_length}; longer ones queue"


def serving_plan(
    shape: ModelShape,
    *,
    group: int | None,
    sequence: int,
    batch: int,
    memory_gib: float,
    ranks: int = 1,
    cpu: bool = False,
    int8_cache: bool = False,
) -> ServingPlan:
    """Plan the memory of each of the `ranks` accelerators of a replica.

    Args:
        group: weights that share a scale in INT4; None keeps them in float16.
        ranks: accelerators that a replica's layers, heads and cache are divided between.
        cpu: OpenVINO's server, which computes in float32 and takes the cache of all sequences when it starts.
        int8_cache: whether keys and values are kept in eight bits.
    """
    bits = 16 if group is None else 4 + 16 / group
    weights = shape.linear_parameters * bits / 8 + shape.embedding_parameters * 2
    tokens = CPU_BATCH_TOKENS if cpu else BATCH_TOKENS
    terms = (
        ("weights", weights / ranks),
        ("runtime", CPU_RUNTIME if cpu else CUDA_RUNTIME),
        ("activations", _step_activations(shape, max(batch, tokens), ranks, 4 if cpu else 2)),
    )
    return ServingPlan(
        fixed=Plan(terms, memory_gib * GIB),
        token_bytes=cache_bytes(shape, int8=int8_cache) / ranks,
        sequence=sequence,
        batch=batch,
        fraction=1.0 if cpu else KV_FRACTION,
        reserved=cpu,
    )


def _step_activations(shape: ModelShape, tokens: int, ranks: int, width: int) -> float:
    """Return bytes in use while `tokens` go through one layer, and of all their logits in float32.

    The residual stream, its norm and a layer's output; queries, keys and values; the gated unit's two values and their
    product. Logits are of every token of the step, because engines are built to give the gate those of whole prompts.
    """
    attention = (2 * shape.heads + 2 * shape.kv_heads) * shape.head_size
    inner = 3 * shape.hidden + (attention + 3 * shape.intermediate) / ranks
    return tokens * (inner * width + shape.vocabulary * 4)
