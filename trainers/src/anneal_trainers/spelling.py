"""Whether a tokenizer is the one that wrote rows of ids: their learned texts, read and written again, must come back.

A vocabulary alone does not tell: with another pre-tokenizer the same ids mean the same texts, and the same texts get other
ids than the model was trained on.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import numpy.typing as npt

from anneal_runtime.chat import ChatEncoder
from anneal_runtime.errors import Refused

LEAST = 0.9
"""Share of texts that must come back: a text cut at the length limit, or an odd normaliser, may not."""

Row = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""Ids and whether each is learned."""


def check(encoder: ChatEncoder, rows: Iterable[Row]) -> None:
    """Raise Refused where `encoder` did not write `rows`."""
    texts = [text for row in rows for text in _texts(encoder, *row)]
    again = sum(_comes_back(encoder, text) for text in texts)
    if again < LEAST * len(texts):
        raise Refused(
            "WrongTokenizer",
            f"tokenizer.json writes {again} of {len(texts)} answers as the rows have them: it is not the tokenizer (or its "
            "pre-tokenizer) that the dataset was prepared with; prepare it again from the right base model",
        )


def _texts(encoder: ChatEncoder, ids: npt.NDArray[Any], learned: npt.NDArray[Any]) -> Iterator[list[int]]:
    """Yield runs of learned ids without control tokens."""
    control = {
        number for number, token in encoder.tokenizer.get_added_tokens_decoder().items() if token.special
    }
    kept = [
        int(number) if flag and int(number) not in control else None
        for number, flag in zip(ids, learned, strict=True)
    ]
    for text, run in groupby(kept, lambda number: number is not None):
        if text:
            yield [number for number in run if number is not None]


def _comes_back(encoder: ChatEncoder, ids: list[int]) -> bool:
    text = encoder.decode(ids)
    # The last token may be part of one: rows end at a limit.
    return any(encoder.encode_plain(text, within).ids[: len(ids) - 1] == ids[:-1] for within in (False, True))
