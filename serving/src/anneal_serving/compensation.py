"""Nibbles and scales that keep a layer's output, from the scales to begin with.

Columns are rounded one after the other, and what rounding one of them did to the output is made up for by those still to
come (GPTQ, arXiv 2210.17323), those of the strongest inputs first. Then coordinate descent goes over the groups: a group's
scale is set to what suits its nibbles best, and each nibble to what is best beside all others (QuantEase, arXiv 2309.01885).

The error that counts is sum(dW H * dW), with H [in, in] the Gram matrix of the inputs. Weights lie inputs first here, [in, out],
so that a column is contiguous.
"""

import torch
from torch import Tensor

SWEEPS = 2
"""Times that coordinate descent goes over all columns; a third takes less than a hundredth off the error."""
DAMPING = 0.01
"""Share of H's mean diagonal added to it, so that directions which calibration has not seen stay bounded."""
BLOCK = 32
"""Columns whose errors reach those after the block in one product."""


def compensated(weight: Tensor, scales: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return nibbles [out, in], as floats, and scales [out, groups] for `weight` [out, in].

    Args:
        weight: float32.
        scales: to begin with; none is 0.
        gram: H, undamped.
    """
    hessian = gram + torch.eye(len(gram), device=gram.device) * (DAMPING * gram.diagonal().mean()).clamp_min(
        1e-6
    )
    columns, steps = weight.T.contiguous(), scales.T.contiguous()
    nibbles = _rounded(columns, steps, hessian)
    for _ in range(SWEEPS):
        _sweep(columns, nibbles, steps, hessian)
    return nibbles.T.contiguous(), steps.T.contiguous()


def _rounded(columns: Tensor, scales: Tensor, hessian: Tensor) -> Tensor:
    """Return nibbles [in, out] by GPTQ."""
    order = hessian.diagonal().argsort(descending=True)
    left, steps = columns[order], scales.repeat_interleave(len(columns) // len(scales), 0)[order]
    factor = _inverse_factor(hessian[order][:, order])
    nibbles = torch.empty_like(left)
    for start in range(0, len(left), BLOCK):
        span = slice(start, start + BLOCK)
        errors = _round_block(left[span], steps[span], factor[span, span], nibbles[span])
        left[start + BLOCK :].addmm_(factor[span, start + BLOCK :].T, errors, alpha=-1)
    return nibbles[order.argsort()]


def _round_block(left: Tensor, steps: Tensor, factor: Tensor, nibbles: Tensor) -> Tensor:
    """Round some columns into `nibbles`; return each one's error over its pivot."""
    errors = torch.empty_like(left)
    for index, pivot in enumerate(factor.diagonal().tolist()):
        torch.div(left[index], steps[index], out=nibbles[index]).round_().clamp_(-8, 7)
        torch.addcmul(left[index], nibbles[index], steps[index], value=-1, out=errors[index]).div_(pivot)
        left[index + 1 :].addr_(factor[index, index + 1 :], errors[index], alpha=-1)
    return errors


def _inverse_factor(hessian: Tensor) -> Tensor:
    """Return the upper Cholesky factor of H's inverse.

    With rows and columns in reverse, H = LL' has an L whose inverse is that factor, reversed.
    """
    lower = torch.linalg.cholesky(hessian.flip(0, 1))
    identity = torch.eye(len(hessian), device=hessian.device)
    factor: Tensor = torch.linalg.solve_triangular(lower, identity, upper=False).flip(0, 1)
    return factor


def _sweep(columns: Tensor, nibbles: Tensor, scales: Tensor, hessian: Tensor) -> None:
    """Improve `nibbles` [in, out] and `scales` [groups, out] in place, a group after the other."""
    group = len(columns) // len(scales)
    # Half the error's gradient, negative: where it is 0, no change of one weight helps.
    pull = hessian @ (columns - nibbles * scales.repeat_interleave(group, 0))
    for scale, start in zip(scales, range(0, len(columns), group), strict=True):
        span = slice(start, start + group)
        change = _improve(pull[span], nibbles[span], scale, hessian[span, span])
        pull[start + group :].addmm_(hessian[start + group :, span], change, alpha=-1)


def _improve(pull: Tensor, nibbles: Tensor, scale: Tensor, hessian: Tensor) -> Tensor:
    """Improve one group in place; return what that changed of its weights [group, out]."""
    before = nibbles * scale
    scale.copy_(_refitted(pull, nibbles, scale, hessian))
    pull.addmm_(hessian, nibbles * scale - before, alpha=-1)
    for index, curvature in enumerate(hessian.diagonal().tolist()):
        best = (pull[index] / (scale * curvature)).add_(nibbles[index]).round_().clamp_(-8, 7)
        pull[index + 1 :].addr_(hessian[index, index + 1 :], (best - nibbles[index]) * scale, alpha=-1)
        nibbles[index] = best
    return nibbles * scale - before


def _refitted(pull: Tensor, nibbles: Tensor, scale: Tensor, hessian: Tensor) -> Tensor:
    """Return the scale [out] of least error under `nibbles`, as float16 keeps it; the one there was, where that is 0."""
    curvature = (nibbles * (hessian @ nibbles)).sum(0).clamp_min(1e-30)
    best = (scale + (nibbles * pull).sum(0) / curvature).half().float()
    return torch.where(best == 0, scale, best)
