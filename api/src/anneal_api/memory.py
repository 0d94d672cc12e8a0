"""What a model needs of an accelerator, as arithmetic on its shape; refused plans carry the arithmetic.

Sources of the terms: QLoRA (arXiv 2305.14314) for NF4 with double quantisation (4.127 bits a weight),
AdamW's two float32 moments, TensorRT-LLM's W4A16 layout for INT4 (4 bits and a float16 scale a group).
"""

from dataclasses import dataclass

from pydantic import Field

from anneal_api.base import Model

GIB = 1024**3
NF4_BITS = 4.127


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

    def adapter_parameters(self, rank: int) -> int:
        """Weights of an adapter of `rank` on all linear layers."""
        q, kv = self.heads * self.head_size, self.kv_heads * self.head_size
        pairs = [(self.hidden, q), (self.hidden, kv), (self.hidden, kv), (q, self.hidden)]
        pairs += [(self.hidden, self.intermediate)] * 2 + [(self.intermediate, self.hidden)]
        return self.layers * rank * sum(a + b for a, b in pairs)


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


def training_plan(
    shape: ModelShape, *, quantized: bool, rank: int, tokens: int, float_bytes: int, memory_gib: float
) -> Plan:
    """Plan one rank's training memory for micro-batches of `tokens` positions.

    Activations assume recomputation by layer: every layer keeps its input, one layer its inner values.
    `float_bytes` is the width of compute (2 for bf16, 4 for f32).
    """
    adapter = shape.adapter_parameters(rank)
    linear = shape.linear_parameters * (NF4_BITS / 8 if quantized else float_bytes)
    inner = 8 * shape.hidden + 4 * shape.intermediate + 2 * (shape.heads + shape.kv_heads) * shape.head_size
    return Plan(
        (
            ("weights", linear + shape.embedding_parameters * float_bytes),
            ("adapter, gradients, AdamW", adapter * 4 * 4),
            ("activations", tokens * float_bytes * (shape.layers * shape.hidden + inner)),
            ("logits", min(tokens, 512) * shape.vocabulary * 4 * 2),
        ),
        memory_gib * GIB,
    )


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
