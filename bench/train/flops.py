"""Floating-point operations a training step of an adapter needs, for the share of a device's peak that is used (MFU).

A multiplication and its addition are 2 operations. A frozen weight is used forward and for the gradient of its input,
4 operations a token; a trained one for its own gradient, too, 6. The frozen head counts at learned positions only.
Causal attention inside a document of n tokens multiplies n^2 / 2 pairs twice forward and four times backward:
6 n^2 / 2 x 2 = 6 n^2 operations for each value of the queries' width. What recomputation repeats does not count.
"""

from collections.abc import Sequence

from anneal_api.memory import ModelShape

PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "A10": 125e12}
"""Dense bf16 operations a second, from NVIDIA's data sheets, by a part of the device's name."""


def of_step(shape: ModelShape, rank: int, documents: Sequence[int], learned: int) -> float:
    """Return the operations of a step over documents of these lengths, `learned` tokens of which are targets."""
    tokens = sum(documents)
    weights = 4 * shape.linear_parameters + 6 * shape.adapter_parameters(rank)
    head = 4 * shape.vocabulary * shape.hidden
    attention = 6 * shape.layers * shape.heads * shape.head_size * sum(n * n for n in documents)
    return float(tokens * weights + learned * head + attention)


def peak_of(device: str) -> float | None:
    """Return the peak of a device by its name, or None where it is not known."""
    return next((peak for part, peak in PEAK.items() if part in device), None)
