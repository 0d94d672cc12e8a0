"""Answers of deterministic requests, kept in memory: the least used go first, and no client sees another's.

What is kept is the answer's parts; the request is only kept as a digest.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict, dataclass

from anneal_serving.gateway.generation import Piece
from anneal_serving.gateway.requests import Ask
from anneal_serving.gateway.telemetry import Record

LIMIT_BYTES = 64 << 20
_OVERHEAD = 512
"""Bytes of an entry beside its text, roughly."""


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    pieces: tuple[Piece, ...]
    prompt_tokens: int
    completion_tokens: int

    @property
    def size(self) -> int:
        """Bytes it takes, roughly."""
        return sum(4 * len(p.text) + _OVERHEAD + 128 * len(p.tokens) for p in self.pieces)


def key_of(ask: Ask, client: str, engines: list[str]) -> bytes:
    """Return the digest of everything that an answer follows from; streaming changes nothing about it."""
    irrelevant = {"stream", "usage"} | ({"seed"} if ask.greedy else set())
    fields = {name: value for name, value in asdict(ask).items() if name not in irrelevant}
    return hashlib.sha256(json.dumps([client, engines, fields], sort_keys=True).encode()).digest()


class Cache:
    """Answers by key, at most `limit` bytes of them."""

    def __init__(self, limit: int = LIMIT_BYTES) -> None:
        self._limit = limit
        self._size = 0
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()

    async def pieces(
        self, key: bytes, made: AsyncGenerator[Piece, None], record: Record
    ) -> AsyncGenerator[Piece, None]:
        """Yield the answer kept under `key`, else that of `made`, which is kept once it is whole."""
        known = self._get(key)
        if known is None:
            async with aclosing(self._kept(key, made, record)) as kept:
                async for piece in kept:
                    yield piece
            return
        await made.aclose()
        record.cached, record.first_token = True, 0.0
        record.prompt_tokens, record.completion_tokens = known.prompt_tokens, known.completion_tokens
        for piece in known.pieces:
            record.finish = piece.finish or ""
            yield piece

    async def _kept(
        self, key: bytes, made: AsyncGenerator[Piece, None], record: Record
    ) -> AsyncGenerator[Piece, None]:
        pieces = []
        try:
            async for piece in made:
                pieces.append(piece)
                yield piece
        finally:
            await made.aclose()
        self._put(key, Answer(tuple(pieces), record.prompt_tokens, record.completion_tokens))

    def _get(self, key: bytes) -> Answer | None:
        if key in self._answers:
            self._answers.move_to_end(key)
        return self._answers.get(key)

    def _put(self, key: bytes, answer: Answer) -> None:
        if answer.size > self._limit:
            return
        self._size += answer.size - (self._answers[key].size if key in self._answers else 0)
        self._answers[key] = answer
        self._answers.move_to_end(key)
        while self._size > self._limit:
            self._size -= self._answers.popitem(last=False)[1].size
