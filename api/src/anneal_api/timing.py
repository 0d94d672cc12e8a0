"""How long AWQ takes, as arithmetic on a model's shape: known before an accelerator is asked for.

Counted are the products of anneal_serving.quantize, two operations a multiplication, over the linear layers of a block; of
`out` rows and `width` inputs: the calibration tokens through the layer and into the Gram matrix, the search of the input
scale over its sampled rows, the search of each group's scale, the Gram matrix' factor, compensated rounding, the error.
"""

from anneal_api.memory import ModelShape
from anneal_api.profiles import AcceleratorProfile

CALIBRATION_TOKENS = 8192
"""anneal_serving.quantize.TOTAL_TOKENS; a test keeps them equal."""
SEARCH = 11 * 128
"""Input scales tried, times the rows they are tried on (anneal_serving.awq.ALPHAS, SEARCH_ROWS)."""
SHRINKS = 10
"""Scales of a group tried (anneal_serving.awq.SHRINKS)."""
CPU_RATE = 30e9
"""Operations a second, measured on two cores: 4.3e12 of SmolLM2-135M in 149 s."""
PEAK_RATE = {"7.5": 8.1e12, "8.0": 19.5e12, "8.6": 31.2e12, "8.9": 30.3e12, "9.0": 66.9e12}
"""float32 operations a second by compute capability, of T4, A100, A10, L4 and H100 as their data sheets have them."""
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
    rounding, error = out * width**2, 4 * out * width**2
    return calibration + searches + factor + rounding + error


def awq_seconds(shape: ModelShape, group: int, accelerator: AcceleratorProfile | None) -> float:
    """Return about how long that takes on an accelerator, or on two CPU cores."""
    capability = accelerator.compute_capability if accelerator and accelerator.resource_name else None
    rate = CPU_RATE if capability is None else REACHED * PEAK_RATE.get(capability, min(PEAK_RATE.values()))
    return awq_operations(shape, group) / rate


def shown(seconds: float) -> str:
    """Return a time in words, to the precision of an estimate."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"
