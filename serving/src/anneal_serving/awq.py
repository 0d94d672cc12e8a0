"""Activation-aware rounding (AWQ, arXiv 2306.00978): scale what matters up before rounding, clip the rest.

Under the scales so found, `compensation` rounds: the stored layout is the same, the error about half.

The error that counts is that of a layer's output over the calibration tokens X: |X dW'|^2 for a weight
error dW. It equals sum(dW H * dW) with H = X'X, so H [in, in] stands for all tokens and nothing else of
them is kept.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from anneal_serving import compensation, rounding

ALPHAS = tuple(i / 10 for i in range(11))
SEARCH_ROWS = 128
"""Output rows that the search of the input scale looks at, spread evenly: the scale is common to all."""
GRAM_BLOCK = 192
"""Rows of H summed at once, from the diagonal on: H is symmetric, so what is left of it need not be. On two cores the fastest
of 96 to 512, with 30 to 40% less time than the whole of H takes."""
CACHED = 1 << 17
"""Weights that are rounded at once on a CPU: what is made of them on the way stays in its second-level cache."""
SHRINKS = tuple(sign * (1 - i / 15) for i in range(5) for sign in (1, -1))
"""Factors of a group's widest scale to try. A scale of the other sign sends the opposite end to -8."""


@dataclass(frozen=True)
class Quantized:
    """A layer's weight as stored: nibbles [out, in] int8, scales [out, groups], prequant [in]."""

    nibbles: Tensor
    scales: Tensor
    prequant: Tensor
    relative_error: float
    """Squared error of the output over the output's square; of the weight, where there is no calibration."""


class Observed:
    """What a layer's input looked like: H = X'X and the mean magnitude of every channel."""

    def __init__(self, width: int, device: torch.device) -> None:
        self._upper = torch.zeros(width, width, device=device)
        self._magnitude = torch.zeros(width, device=device)
        self._count = 0

    def add(self, inputs: Tensor) -> None:
        """Take in the inputs [tokens, in] of one row."""
        for start in range(0, len(self._upper), GRAM_BLOCK):
            block = inputs[:, start : start + GRAM_BLOCK]
            self._upper[start : start + GRAM_BLOCK, start:].addmm_(block.T, inputs[:, start:])
        self._magnitude += inputs.abs().sum(0)
        self._count += len(inputs)

    @property
    def gram(self) -> Tensor:
        """H [in, in]."""
        return self._upper.triu() + self._upper.triu(1).T

    @property
    def magnitude(self) -> Tensor:
        """Mean |x| of every channel [in]; never zero."""
        return (self._magnitude / max(1, self._count)).clamp_min(1e-6)


def round_to_nearest(weight: Tensor, group: int) -> Quantized:
    """Quantise without looking at activations: the method `rtn`."""
    rows = CACHED // weight.shape[1] if weight.device.type == "cpu" else len(weight)
    parts = [_rounded(part, group) for part in torch.split(weight, max(1, rows))]
    nibbles, scales, errors, sizes = zip(*parts, strict=True)
    unit = torch.ones(weight.shape[1], device=weight.device)
    return Quantized(torch.cat(nibbles), torch.cat(scales), unit, float(sum(errors) / sum(sizes)))


def _rounded(weight: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return nibbles, scales, and the squares of what rounding changed and of all there was."""
    scales = rounding.extreme_scales(weight, group)
    nibbles = rounding.nibbles(weight, scales)
    change = (nibbles * scales[:, :, None]).flatten().sub_(weight.flatten())
    return (
        nibbles.flatten(1).to(torch.int8),
        scales,
        change.dot(change),
        weight.flatten().dot(weight.flatten()),
    )


def activation_aware(weights: list[Tensor], seen: Observed, group: int) -> list[Quantized]:
    """Quantise layers that share an input as the one layer that they amount to.

    Args:
        weights: float32 [out, in] each.
        seen: their common input over the calibration tokens.
        group: inputs that share a scale.
    """
    together = torch.cat(weights)
    sample = together[:: max(1, len(together) // SEARCH_ROWS)]
    gram = seen.gram
    prequant = min(_candidates(seen), key=lambda p: _error_at(sample, p, gram, group))
    scaled, gram = together / prequant, gram * prequant * prequant[:, None]
    nibbles, scales = compensation.compensated(scaled, _best_scales(scaled, gram, group), gram)
    sizes = [len(weight) for weight in weights]
    parts = zip(*(torch.split(whole, sizes) for whole in (scaled, scales, nibbles)), strict=True)
    return [Quantized(n.to(torch.int8), s, prequant, _relative_error(w, s, n, gram)) for w, s, n in parts]


def _relative_error(scaled: Tensor, scales: Tensor, nibbles: Tensor, gram: Tensor) -> float:
    restored = (nibbles.reshape(*scales.shape, -1) * scales[:, :, None]).flatten(1)
    return _output_error(restored - scaled, gram) / max(_output_error(scaled, gram), 1e-30)


def _candidates(seen: Observed) -> list[Tensor]:
    """Return the input factors to try: 1 / (magnitude of the channel)^alpha, centred around 1."""
    return [_prequant(seen.magnitude**alpha) for alpha in ALPHAS]


def _prequant(importance: Tensor) -> Tensor:
    # A power of two goes into the norm before the layer without a rounding, and changes no bit of a weight's mantissa.
    centred = importance / (importance.max() * importance.min()).sqrt()
    return torch.exp2(-torch.log2(centred).round().clamp(-10, 10))


def _error_at(weight: Tensor, prequant: Tensor, gram: Tensor, group: int) -> float:
    scaled = weight / prequant
    restored = rounding.restored(scaled, rounding.extreme_scales(scaled, group))
    return _output_error(restored * prequant - weight, gram)


def _output_error(difference: Tensor, gram: Tensor) -> float:
    return float((difference @ gram).mul_(difference).sum())


def _best_scales(scaled: Tensor, gram: Tensor, group: int) -> Tensor:
    """Shrink each group's scale, of either sign, to what hurts that group's share of the output least."""
    blocks = torch.stack([gram[i : i + group, i : i + group] for i in range(0, len(gram), group)])
    widest = rounding.extreme_scales(scaled, group)
    best, least = widest, torch.full_like(widest, torch.inf)
    for shrink in SHRINKS:
        scales = rounding.stored(widest * shrink)
        errors = _group_errors(scaled, scales, blocks)
        best = torch.where(errors < least, scales, best)
        least = torch.minimum(errors, least)
    return best


def _group_errors(scaled: Tensor, scales: Tensor, blocks: Tensor) -> Tensor:
    """Return each group's error [out, groups], with that group's block [group, group] of H."""
    grouped = scaled.reshape(*scales.shape, -1)
    difference = rounding.nibbles(scaled, scales).mul_(scales[:, :, None]).sub_(grouped).transpose(0, 1)
    return torch.sum((difference @ blocks).mul_(difference), 2).T
