"""Rounding of weights to signed four-bit groups, in torch.

A group's scale is signed, so that its weight of largest magnitude becomes -8: all sixteen levels are used,
where amax/7 with a positive scale would leave one unused. Scales are kept in float16, as they are stored,
so what is measured here is what is served.
"""

import torch
from torch import Tensor


def extreme_scales(weight: Tensor, group: int) -> Tensor:
    """Return [out, in/group] scales that send each group's weight of largest magnitude to -8."""
    grouped = weight.reshape(len(weight), -1, group)
    # Not aminmax, which takes six times as long as the two; so does a search for every largest weight's place.
    low, high = grouped.amin(2), grouped.amax(2)
    extreme = torch.where(high > -low, high, low)
    # Of two as large of either sign the first.
    tied = high == -low
    rows = grouped[tied]
    extreme[tied] = rows.gather(1, rows.abs().argmax(1, keepdim=True)).squeeze(1)
    return stored(extreme / -8)


def stored(scales: Tensor) -> Tensor:
    """Return float32 `scales` as float16 keeps them; a scale that would vanish becomes 1 (all of q is 0)."""
    half = scales.half().float()
    return torch.where(half == 0, torch.ones_like(half), half)


def nibbles(weight: Tensor, scales: Tensor) -> Tensor:
    """Return the nearest multiples [out, groups, group] of `scales`, -8..7, as floats."""
    grouped = weight.reshape(*scales.shape, -1)
    return (grouped / scales[:, :, None]).round_().clamp_(-8, 7)


def restored(weight: Tensor, scales: Tensor) -> Tensor:
    """Return `weight` [out, in] after rounding with `scales`."""
    return (nibbles(weight, scales) * scales[:, :, None]).flatten(1)
