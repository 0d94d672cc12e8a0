"""How far an engine's predictions are from full precision, on held-out rows.

The reference keeps, for every position, the K most likely next tokens, their log-probabilities, the
log of all remaining mass, and the loss of the token that followed. Figures count the positions whose next
token is learned (an answer's): what the model is served to write.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from anneal_serving.int4 import Array

PROBE = "probe.safetensors"
"""Beside a checkpoint, of full precision: `input_ids` [tokens], `hidden` [layers, tokens, hidden] after every block, for every
linear layer its weight times `direction`, under `N.NAME` [out], and in the file's metadata `decoder`: its constants."""
_LEAST = 1e-12
"""Mass below which a tail is not told from nothing: float32 log-probabilities carry seven digits."""


@dataclass(frozen=True)
class Row:
    """One held-out row; arrays by position, of which the last predicts nothing."""

    task: int
    input_ids: Array
    learned: Array
    top_ids: Array
    top_logprobs: Array
    tail_logprob: Array
    nll: Array

    @property
    def positions(self) -> Array:
        """Positions whose next token is learned."""
        return np.flatnonzero(self.learned[1:])


@dataclass
class Tally:
    """Sums over positions of one task."""

    tokens: int = 0
    kl: float = 0.0
    agreed: int = 0
    reference_nll: float = 0.0
    engine_nll: float = 0.0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def reference_perplexity(self) -> float:
        """Perplexity under full precision."""
        return float(np.exp(self.reference_nll / self.tokens))

    @property
    def engine_perplexity(self) -> float:
        """Perplexity under the engine."""
        return float(np.exp(min(self.engine_nll / self.tokens, 700.0)))

    @property
    def increase(self) -> float:
        """Relative increase of perplexity."""
        return self.engine_perplexity / self.reference_perplexity - 1


def direction(width: int) -> Array:
    """Return a fixed vector [width] that has to do with no model."""
    found: Array = np.cos(np.arange(width, dtype=np.float64) ** 2).astype(np.float32)
    return found


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a reference.safetensors that have something to compare."""
    flat = load_file(path)
    offsets = flat["offsets"].tolist()
    rows = [_row(flat, index, slice(*offsets[index : index + 2])) for index in range(len(offsets) - 1)]
    return [row for row in rows if len(row.positions)]


def spread(rows: list[Row], tokens: int) -> list[Row]:
    """Return rows of at most `tokens` tokens in all, taken from the tasks in turn; at least one of each."""
    queues = [[row for row in rows if row.task == task] for task in sorted({row.task for row in rows})]
    turns = [row for turn in range(len(rows)) for queue in queues for row in queue[turn : turn + 1]]
    ends = np.cumsum([len(row.input_ids) for row in turns])
    return [
        row
        for at, (row, end) in enumerate(zip(turns, ends, strict=True))
        if end <= tokens or at < len(queues)
    ]


def compare(row: Row, logits: Iterable[tuple[int, Array]]) -> Tally:
    """Compare one row with the engine's logits, given in chunks as (first position, [tokens, vocabulary])."""
    return sum((_chunk(row, start, chunk) for start, chunk in logits), Tally())


def _row(flat: dict[str, Array], index: int, span: slice) -> Row:
    names = ("input_ids", "learned", "top_ids", "top_logprobs", "tail_logprob", "nll")
    return Row(task=int(flat["task"][index]), **{name: flat[name][span] for name in names})


def _chunk(row: Row, start: int, logits: Array) -> Tally:
    at = row.positions[(row.positions >= start) & (row.positions < start + len(logits))]
    if not len(at):
        return Tally()
    engine = _log_softmax(logits[at - start])
    top, following = row.top_ids[at], row.input_ids[at + 1]
    return Tally(
        tokens=len(at),
        kl=float(
            _divergence(row.top_logprobs[at], row.tail_logprob[at], np.take_along_axis(engine, top, 1)).sum()
        ),
        agreed=int((engine.argmax(1) == top[np.arange(len(at)), row.top_logprobs[at].argmax(1)]).sum()),
        reference_nll=float(row.nll[at].astype(np.float64).sum()),
        engine_nll=float(-engine[np.arange(len(at)), following].sum()),
    )


def _divergence(top: Array, tail: Array, engine_top: Array) -> Array:
    """Return KL(reference || engine) in nats [positions], over the top tokens and the tail as one.

    Merging the tail can only lower a KL divergence, so this is a lower bound, tight where the tail is small.
    """
    top, tail = top.astype(np.float64), tail.astype(np.float64)
    left = np.log(np.maximum(1 - np.exp(engine_top).sum(1), _LEAST))
    inside = (np.exp(top) * (top - engine_top)).sum(1)
    outside = np.where(np.exp(tail) > _LEAST, np.exp(tail) * (tail - left), 0)
    kl: Array = inside + outside
    return kl


def _log_softmax(logits: Array) -> Array:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(1, keepdims=True))
    return shifted


def by_task(tallies: Iterable[tuple[int, Tally]]) -> dict[int, Tally]:
    """Return the sums of every task."""
    sums: dict[int, Tally] = {}
    for task, tally in tallies:
        sums[task] = sums.get(task, Tally()) + tally
    return sums


def chunked(row: Row, size: int) -> Iterator[tuple[int, Array]]:
    """Yield (first position, ids) of a row cut into chunks of `size` tokens."""
    return ((start, row.input_ids[start : start + size]) for start in range(0, len(row.input_ids), size))
