"""Attention within each document of a pack, and nothing computed between documents.

A dense mask would compute all pairs and throw most away: of a pack of 512 tokens in five documents, three times the
CPU time forward and backward. On CPUs there is no kernel for documents of several lengths, so each is a call of
its own; on accelerators one varlen call takes them all, in half precision (the kernel knows no other). Rows padded on
the right need no mask either: under a causal mask nothing that is learned sees what comes after it.

Registered with transformers as IMPLEMENTATION; the model's forward passes `bounds` through to it.
"""

import itertools
from typing import Any

import torch
import transformers
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

IMPLEMENTATION = "anneal_documents"


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    scaling: float | None = None,
    bounds: tuple[int, ...] | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Return [batch, positions, heads, size] for transformers' attention interface.

    Args:
        query: [batch, heads, positions, size]; key and value may have fewer heads, which are shared.
        bounds: where documents of a pack (batch of 1) begin, and the end of the last; None for one a row.
    """
    if bounds is None or len(bounds) == 2:
        return _causal(query, key, value, scaling).transpose(1, 2), None
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        return _varlen(query, key, value, scaling, bounds), None
    parts = [slice(a, b) for a, b in itertools.pairwise(bounds)]
    done = [_causal(query[:, :, p], key[:, :, p], value[:, :, p], scaling) for p in parts]
    return torch.cat(done, 2).transpose(1, 2), None


def _causal(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    shared = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(
        query, key, value, is_causal=query.shape[2] > 1, scale=scaling, enable_gqa=shared
    )


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    bounds: tuple[int, ...],
) -> torch.Tensor:
    flat_query, flat_key, flat_value = (t[0].transpose(0, 1).contiguous() for t in (query, key, value))
    starts = torch.tensor(bounds, dtype=torch.int32, device=query.device)
    longest = max(b - a for a, b in itertools.pairwise(bounds))
    done = varlen_attn(
        flat_query,
        flat_key,
        flat_value,
        starts,
        starts,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(done, torch.Tensor)
    return done[None]


transformers.AttentionInterface.register(IMPLEMENTATION, attend)
