"""Documents of a pack see themselves and what came before in them, and nothing else; gradients too."""

import itertools

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from anneal_trainers.base import attention

BOUNDS = (0, 5, 6, 13, 20)


def heads(number: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, number, BOUNDS[-1], 8, generator=generator).requires_grad_(True)


@pytest.mark.parametrize("shared", [1, 2, 4])
@pytest.mark.parametrize("bounds", [BOUNDS, (0, 20), None])
def test_values_and_gradients_are_those_of_a_dense_document_mask(
    shared: int, bounds: tuple[int, ...] | None
) -> None:
    query, key, value = heads(4, 0), heads(4 // shared, 1), heads(4 // shared, 2)
    found, none = attention.attend(None, query, key, value, None, scaling=0.3, bounds=bounds)
    seen = torch.zeros(20, 20, dtype=torch.bool)
    for begin, end in itertools.pairwise(bounds or (0, 20)):
        seen[begin:end, begin:end] = torch.ones(end - begin, end - begin).tril().bool()
    repeated = (x.repeat_interleave(shared, 1) for x in (key, value))
    expected = scaled_dot_product_attention(query, *repeated, attn_mask=seen, scale=0.3)
    assert none is None
    assert torch.allclose(found, expected.transpose(1, 2), atol=1e-6)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(3))
    got = torch.autograd.grad((found * weights).sum(), (query, key, value))
    wanted = torch.autograd.grad((expected.transpose(1, 2) * weights).sum(), (query, key, value))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(got, wanted, strict=True))


def test_what_is_in_another_document_changes_nothing() -> None:
    query, key, value = heads(2, 0), heads(2, 1), heads(2, 2)
    before = attention.attend(None, query, key, value, None, bounds=BOUNDS)[0]
    with torch.no_grad():
        key[:, :, :6] += 9
        value[:, :, :6] += 9
    after = attention.attend(None, query, key, value, None, bounds=BOUNDS)[0]
    assert torch.equal(before[:, 6:], after[:, 6:])
    assert not torch.equal(before[:, :6], after[:, :6])
