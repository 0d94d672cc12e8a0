"""A request's way: encode, wait for a replica, stream its tokens; move to another while none has come."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from anneal_runtime.errors import Refused
from anneal_serving.gateway.balancer import Lease, Moved
from anneal_serving.gateway.errors import ApiError
from anneal_serving.gateway.replicas import Failed, Job, Replicas, Unavailable
from anneal_serving.gateway.requests import Ask
from anneal_serving.gateway.routes import Route
from anneal_serving.gateway.telemetry import Record
from anneal_serving.gateway.text import Transcript


@dataclass(frozen=True)
class Encoded:
    """A prompt within the engine's limits."""

    ids: list[int]
    max_tokens: int


def encode(ask: Ask, route: Route) -> Encoded:
    """Return the ids of a request's prompt, as training made them, and how many tokens may follow.

    A chat goes through the chat template, where a user's text is only text. A raw prompt is encoded as
    the tokenizer does by itself, special tokens included: fill-in-the-middle prompts need them.

    Raises:
        ApiError: 400 when it does not fit, or the template refuses the roles.
    """
    try:
        ids = _ids(ask, route)
    except Refused as error:
        raise ApiError(400, f"{ask.param}: {error.message}", param=ask.param) from error
    return within(ask, ids, route.config.max_input_length, route.config.max_sequence_length)


def within(ask: Ask, ids: list[int], max_input: int, max_sequence: int) -> Encoded:
    """Return the request's size, or raise ApiError 400 with the arithmetic."""
    if len(ids) > max_input:
        text = f"{ask.param}: {len(ids)} tokens, and {max_input} fit (maxInputLength); shorten it"
        raise ApiError(400, text, param=ask.param, code="context_length_exceeded")
    room = max_sequence - len(ids)
    if ask.max_tokens is not None and ask.max_tokens > room:
        text = (
            f"max_tokens: {len(ids)} tokens of prompt and {ask.max_tokens} more exceed {max_sequence} "
            f"(maxSequenceLength); ask for at most {room}"
        )
        raise ApiError(400, text, param="max_tokens", code="context_length_exceeded")
    return Encoded(ids, ask.max_tokens or room)


def _ids(ask: Ask, route: Route) -> list[int]:
    if ask.chat is not None:
        return route.encoder.encode(ask.chat, add_generation_prompt=True).ids
    if isinstance(ask.prompt, str):
        return list(route.encoder.tokenizer.encode(ask.prompt).ids)
    vocabulary = route.encoder.tokenizer.get_vocab_size()
    if any(not 0 <= token < vocabulary for token in ask.prompt or []):
        raise ApiError(400, f"prompt: ids are 0 to {vocabulary - 1}", param="prompt")
    return list(ask.prompt or [])


@dataclass(frozen=True)
class Piece:
    """Text that is certain; the last piece says why the answer ended."""

    text: str
    finish: str | None = None


class Generator:
    """Answers requests.

    Args:
        route: returns the current route.
        replicas: connections.
    """

    def __init__(self, route: Callable[[], Route], replicas: Replicas) -> None:
        self._route = route
        self._replicas = replicas

    async def pieces(self, ask: Ask, record: Record) -> AsyncGenerator[Piece, None]:
        """Yield the answer; closing the generator frees the slot and cancels the request on its replica.

        Raises:
            ApiError: the request is wrong, shed, too late, or its replica failed after the first token.
        """
        deadline = record.began + self._route().config.request_timeout_seconds
        while True:
            try:
                async for piece in self._attempt(ask, record, deadline):
                    yield piece
                return
            except Moved:
                continue
            except Unavailable as error:
                if record.first_token is not None:
                    raise ApiError(502, f"the replica was lost while answering: {error}") from error
                record.retries += 1
            except TimeoutError as error:
                raise ApiError(504, "the answer took longer than requestTimeoutSeconds") from error
            except Failed as error:
                raise ApiError(500, f"the engine refused the request: {error}") from error

    async def _attempt(self, ask: Ask, record: Record, deadline: float) -> AsyncGenerator[Piece, None]:
        route = self._route()
        encoded = await asyncio.to_thread(encode, ask, route)
        record.prompt_tokens = len(encoded.ids)
        size = len(encoded.ids) + encoded.max_tokens
        lease = await route.balancer.acquire(size, _left(deadline))
        record.queued = time.monotonic() - record.began
        record.replica = lease.address
        failed = False
        stream = self._tokens(ask, encoded, route, lease, record, deadline)
        try:
            async for piece in stream:
                yield piece
        except Unavailable:
            failed = True
            raise
        finally:
            await stream.aclose()
            lease.release(failed=failed)

    async def _tokens(
        self, ask: Ask, encoded: Encoded, route: Route, lease: Lease, record: Record, deadline: float
    ) -> AsyncGenerator[Piece, None]:
        encoder = route.encoder
        transcript = Transcript(encoder.decode, encoder.eos_ids, ask.stops, encoded.max_tokens)
        job = Job(record.identity, encoded.ids, encoded.max_tokens, encoder.eos_ids, ask)
        source = self._replicas.stream(lease.address, job, _left(deadline))
        text = ""
        try:
            async for ids in source:
                if ids and record.first_token is None:
                    record.first_token = time.monotonic() - record.began
                lease.progress(len(ids))
                text = transcript.push(ids)
                record.completion_tokens = transcript.tokens
                if transcript.finish:
                    break
                if text:
                    yield Piece(text)
                text = ""
        finally:
            await source.aclose()
        if record.first_token is None:
            raise Unavailable("the replica ended the answer before its first token")
        rest = text + transcript.end()
        record.finish = transcript.finish or ""
        yield Piece(rest, record.finish)


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())
