"""How long training and AWQ take, as arithmetic on a model's shape: known before an accelerator is asked for.

Of training, the products with the frozen weights and the head are counted: forward, back to the inputs, and forward once more
where a layer's inner values are computed again; attention, adapters, evaluation and what ranks say to each other are left out.

Of AWQ, counted are the products of anneal_serving.quantize, two operations a multiplication, over the linear layers of a block; of
`out` rows and `width` inputs: the calibration tokens through the layer and into the Gram matrix, the search of the input
scale over its sampled rows, the search of each group's scale, the Gram matrix' factor, compensated rounding and its sweeps,
the error.
"""

from anneal_api.memory import ModelShape
from anneal_api.profiles import AcceleratorProfile

CALIBRATION_TOKENS = 16_384
"""anneal_serving.quantize.TOTAL_TOKENS; a test keeps them equal."""
SEARCH = 11 * 128
"""Input scales tried, times the rows they are tried on (anneal_serving.awq.ALPHAS, SEARCH_ROWS)."""
SHRINKS = 10
"""Scales of a group tried (anneal_serving.awq.SHRINKS)."""
SWEEPS = 2
"""Passes over the columns after they are rounded (anneal_serving.compensation.SWEEPS)."""
CPU_RATE = 30e9
"""Operations a second, measured on one thread of two busy cores: 8.2e12 of SmolLM2-135M in 251 s."""
PEAK_RATE = {"7.5": 8.1e12, "8.0": 19.5e12, "8.6": 31.2e12, "8.9": 30.3e12, "9.0": 66.9e12}
"""float32 operations a second by compute capability, of T4, A100, A10, L4 and H100 as their data sheets have them."""
TENSOR_RATE = {"7.5": 65e12, "8.0": 312e12, "8.6": 125e12, "8.9": 121e12, "9.0": 989e12}
"""16-bit operations a second on matrix units without sparsity, of the same data sheets."""
REACHED = 0.4
"""Share of the peak that is counted on; not measured."""


def awq_operations(shape: ModelShape, group: int) -> float:
    """Return the floating-point operations that AWQ of a whole model takes."""
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    layers = (
        (queries + 2 * keys, shape.hidden),
        (shape.hidden, queries),
        (2 * shape.intermediate, shape.hidden),
        (shape.hidden, shape.intermediate),
    )
    return shape.layers * sum(_of(out, width, group) for out, width in layers)


def _of(out: int, width: int, group: int) -> float:
    calibration = 2 * CALIBRATION_TOKENS * width * (out + width)
    searches = 2 * SEARCH * width**2 + 2 * SHRINKS * out * width * group
    factor = 4 / 3 * width**3
    rounding, error = (1 + 3 * SWEEPS) * out * width**2, 4 * out * width**2
    return calibration + searches + factor + rounding + error


def awq_seconds(shape: ModelShape, group: int, accelerator: AcceleratorProfile | None) -> float:
    """Return about how long that takes on an accelerator, or on two CPU cores."""
    capability = accelerator.compute_capability if accelerator and accelerator.resource_name else None
    rate = CPU_RATE if capability is None else REACHED * PEAK_RATE.get(capability, min(PEAK_RATE.values()))
    return awq_operations(shape, group) / rate


def training_operations(shape: ModelShape, tokens: float, *, recompute: bool, references: int = 0) -> float:
    """Return the floating-point operations of training on `tokens` positions.

    Args:
        recompute: whether a layer's inner values are computed again in the backward pass.
        references: frozen models that are asked beside the trained one (DPO's is one).
    """
    weights = shape.linear_parameters + shape.vocabulary * shape.hidden
    passes = 2 + int(recompute) + references
    return 2 * weights * passes * tokens


def training_seconds(operations: float, ranks: int, accelerator: AcceleratorProfile) -> float:
    """Return about how long that takes on so many accelerators, or pods of two CPU cores each."""
    if accelerator.resource_name is None:
        return operations / (ranks * CPU_RATE)
    rate = TENSOR_RATE.get(accelerator.compute_capability or "", min(TENSOR_RATE.values()))
    return operations / (ranks * REACHED * rate)


def shown(seconds: float) -> str:
    """Return a time in words, to the precision of an estimate."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"
