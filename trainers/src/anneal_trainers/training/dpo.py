"""Direct preference optimisation (Rafailov et al., arXiv 2305.18290): losses of pairs from log-probabilities.

With m = beta * ((log p(chosen) - log p(rejected)) - (log ref(chosen) - log ref(rejected))), the margin
between the implicit rewards, a pair's loss is -log sigmoid(m) = log(1 + exp(-m)). Its derivative by
log p(chosen) is -beta * sigmoid(-m), and by log p(rejected) the negative of it: so a step can score all its
pairs first, and then train on a plain weighted sum of token losses.
"""

import torch
from torch import Tensor
from torch.nn import functional


def margins(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float
) -> Tensor:
    """Return how far each pair's chosen answer is rewarded above the rejected one, [pairs].

    Args:
        chosen: log-probability of each pair's chosen answer, summed over its learned tokens, [pairs].
        rejected: the same of the rejected answer.
        reference_chosen: the same of the chosen answer under the reference model.
        reference_rejected: the same of the rejected answer under the reference model.
        beta: strength of the tie to the reference model.
    """
    return beta * ((chosen - rejected) - (reference_chosen - reference_rejected))


def losses(margin: Tensor) -> Tensor:
    """Return the loss of each pair, [pairs]; exact far from 0, where sigmoid rounds to 0 or 1."""
    return functional.softplus(-margin)


def coefficients(margin: Tensor, beta: float) -> Tensor:
    """Return d loss / d log p(chosen) of each pair, which is - d loss / d log p(rejected), [pairs]."""
    return -beta * torch.sigmoid(-margin)


def pair_losses(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """Return loss and coefficient of each pair; arguments as those of `margins`."""
    margin = margins(chosen, rejected, reference_chosen, reference_rejected, beta)
    return losses(margin), coefficients(margin, beta)
