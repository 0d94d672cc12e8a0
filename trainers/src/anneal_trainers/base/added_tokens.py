"""Tokens a base model does not have: a trained row each, beside embeddings that stay frozen.

New rows begin at the mean of the existing ones plus a little noise that tells them apart. Where input and
output embeddings are one tensor the rows are too; else the output has rows of its own. Parameters carry the
names peft gives its trainable tokens, so that peft reads the adapter (its base first resized to the same size).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

NOISE = 0.1
"""Noise of a new row, as a share of the standard deviation of the existing rows."""


class Rows(nn.Module):
    """Trained rows [added, hidden] in float32, and the ids [added] they belong to."""

    ids: torch.Tensor

    def __init__(self, ids: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("ids", ids, persistent=False)
        self.trainable_tokens_delta = nn.ParameterDict({"default": nn.Parameter(values)})

    @property
    def values(self) -> torch.Tensor:
        """The rows."""
        rows: torch.Tensor = self.trainable_tokens_delta["default"]
        return rows

    @torch.no_grad()
    def write_into(self, weight: torch.Tensor) -> None:
        """Give an embedding the values the rows have now."""
        weight[self.ids] = self.values.to(weight.dtype)


class GrownEmbedding(nn.Embedding):
    """A frozen embedding but for the rows of added tokens."""

    token_adapter: Rows

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return [..., hidden]."""
        frozen = functional.embedding(ids, self.weight)
        match = (ids[..., None] == self.token_adapter.ids).to(frozen.dtype)
        trained = match @ self.token_adapter.values.to(frozen.dtype)
        return torch.where(match.any(-1, keepdim=True), trained, frozen)


class GrownHead(nn.Linear):
    """A frozen output embedding but for the rows of added tokens."""

    token_adapter: Rows

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return logits [..., vocabulary]."""
        logits = functional.linear(states, self.weight)
        rows = self.token_adapter.values.to(states.dtype)
        return logits.index_copy(-1, self.token_adapter.ids, functional.linear(states, rows))


def add(base: Any, added: Mapping[str, int], seed: int) -> None:
    """Give `base` trained rows for `added` (id by token).

    Embeddings grow when an id lies beyond them, and config.vocab_size with them.
    """
    if not added:
        return
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    tied = head.weight is embedding.weight
    ids = torch.tensor(sorted(added.values()), device=embedding.weight.device)
    generator = torch.Generator().manual_seed(seed)
    rows = _grow(embedding, ids, generator)
    if tied:
        head.weight = embedding.weight
    _install(head, GrownHead, rows if tied else _grow(head, ids, generator))
    _install(embedding, GrownEmbedding, rows)
    base.config.vocab_size = embedding.num_embeddings = head.out_features = len(embedding.weight)


def head_rows(base: Any) -> Rows | None:
    """Return the rows the output uses, or None where no token was added."""
    head = base.get_output_embeddings()
    return head.token_adapter if isinstance(head, GrownHead) else None


def token_indices(base: Any) -> dict[str, list[int]] | None:
    """Return the ids of added tokens by layer, as peft's config names them; None without any."""
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    if not isinstance(embedding, GrownEmbedding):
        return None
    ids = embedding.token_adapter.ids.tolist()
    tied = head.token_adapter is embedding.token_adapter
    return {"embed_tokens": ids} | ({} if tied else {"lm_head": ids})


def write_into_embeddings(base: Any) -> None:
    """Give the frozen embeddings the values of the rows, for readers of the weights themselves."""
    for layer in (base.get_input_embeddings(), base.get_output_embeddings()):
        if isinstance(layer, GrownEmbedding | GrownHead):
            layer.token_adapter.write_into(layer.weight)


def _grow(layer: Any, ids: torch.Tensor, generator: torch.Generator) -> Rows:
    """Lengthen a layer's weight to hold `ids`, and return their rows as they begin."""
    weight = layer.weight.data
    mean, deviation = weight.float().mean(0), weight.float().std()
    noise = torch.randn((len(ids), weight.shape[1]), generator=generator).to(weight.device)
    missing = max(0, int(ids.max()) + 1 - len(weight))
    filler = mean.to(weight.dtype).expand(missing, -1)
    layer.weight = nn.Parameter(torch.cat([weight, filler]), requires_grad=False)
    rows = Rows(ids, mean + NOISE * deviation * noise)
    rows.write_into(layer.weight)
    return rows


def _install(layer: Any, kind: type[nn.Module], rows: Rows) -> None:
    # The layer stays the same object, as hooks and ties refer to it; only its forward pass is another.
    layer.__class__ = kind
    layer.token_adapter = rows
