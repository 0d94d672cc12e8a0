"""A request's way: encode, wait for a replica, stream its tokens; move to another while none has come."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

from anneal_runtime import sentinels
from anneal_runtime.errors import Refused
from anneal_serving.gateway.balancer import Lease, Moved, prefix_of
from anneal_serving.gateway.errors import ApiError
from anneal_serving.gateway.replicas import Failed, InvalidGuide, Job, Source, Step, Unavailable
from anneal_serving.gateway.requests import Ask
from anneal_serving.gateway.routes import Route, Routes
from anneal_serving.gateway.telemetry import Attempt, Record
from anneal_serving.gateway.text import Transcript

SHORT = 1024
"""Characters or ids of a prompt that is encoded at once: that takes a millisecond, and so does the way to a thread and back."""


@dataclass(frozen=True)
class Encoded:
    """A prompt within the engine's limits."""

    ids: list[int]
    max_tokens: int
    stop_ids: list[int]


def encode(ask: Ask, route: Route) -> Encoded:
    """Return the ids of a request's prompt, as training made them, and how many tokens may follow.

    A chat goes through the chat template, where a user's text is only text. A raw prompt is encoded as
    the tokenizer does by itself, special tokens included. With a suffix it is put between the sentinels
    of the model's family, as training puts its documents.

    Raises:
        ApiError: 400 when it does not fit, the template refuses the roles, or the engine cannot do it.
    """
    supported(ask, route.version.runtime)
    try:
        ids, stops = _ids(ask, route)
    except Refused as error:
        raise ApiError(400, f"{ask.param}: {error.message}", param=ask.param) from error
    room = within(ask, ids, route.version.max_input_length, route.version.max_sequence_length)
    return Encoded(ids, room, stops)


async def _encoded(ask: Ask, route: Route) -> Encoded:
    """Encode: a long prompt in a thread, so that running streams keep their pace."""
    return encode(ask, route) if ask.size <= SHORT else await asyncio.to_thread(encode, ask, route)


def supported(ask: Ask, runtime: str) -> None:
    """Raise ApiError 400 for what a runtime does not give."""
    wanted = {"response_format": ask.guide is not None, "logprobs": ask.logprobs}
    for param in [name for name, asked in wanted.items() if asked and runtime != "openvino"]:
        raise ApiError(400, f"{param}: not built for engine.runtime {runtime}; leave it out", param=param)


def within(ask: Ask, ids: list[int], max_input: int, max_sequence: int) -> int:
    """Return how many tokens may follow, or raise ApiError 400 with the arithmetic."""
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
    return ask.max_tokens or room


def _ids(ask: Ask, route: Route) -> tuple[list[int], list[int]]:
    """Return the prompt's ids and the ids that end the answer."""
    ends = route.encoder.eos_ids
    if ask.suffix is not None:
        return _middle(str(ask.prompt), ask.suffix, route)
    if ask.chat is not None:
        return route.encoder.encode(ask.chat, add_generation_prompt=True).ids, ends
    return _raw(ask, route), ends


def _middle(prefix: str, suffix: str, route: Route) -> tuple[list[int], list[int]]:
    by = sentinels.of(route.encoder)
    if by is None:
        text = "suffix: the model's tokenizer has no fill-in-the-middle tokens; ask for the middle in a chat"
        raise ApiError(400, text, param="suffix")
    return sentinels.prompt(route.encoder, by, prefix, suffix), sorted({*route.encoder.eos_ids, by.end})


def _raw(ask: Ask, route: Route) -> list[int]:
    if isinstance(ask.prompt, str):
        return list(route.encoder.tokenizer.encode(ask.prompt).ids)
    vocabulary = route.encoder.tokenizer.get_vocab_size()
    if any(not 0 <= token < vocabulary for token in ask.prompt or []):
        raise ApiError(400, f"prompt: ids are 0 to {vocabulary - 1}", param="prompt")
    return list(ask.prompt or [])


@dataclass(frozen=True)
class Chosen:
    """A token of an answer: what it writes by itself, and the logarithm of its probability."""

    written: bytes
    logprob: float


@dataclass(frozen=True)
class Piece:
    """Text that is certain; the last piece says why the answer ended.

    Attributes:
        tokens: those generated since the piece before, if asked for; text may follow its tokens a piece later.
    """

    text: str
    finish: str | None = None
    tokens: tuple[Chosen, ...] = ()


class Generator:
    """Answers requests.

    Args:
        routes: returns the current routes.
        replicas: connections.
        count: told what became of a version's work on a request, and whether it failed.
        draw: returns a random number, at least 0 and below 1.
    """

    def __init__(
        self,
        routes: Callable[[], Routes],
        replicas: Source,
        count: Callable[[Attempt, bool], None] = lambda attempt, failed: None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._routes = routes
        self._replicas = replicas
        self._count = count
        self._draw = draw

    async def pieces(self, ask: Ask, record: Record) -> AsyncGenerator[Piece, None]:
        """Yield the answer; closing the generator frees the slot and cancels the request on its replica.

        Raises:
            ApiError: the request is wrong, shed, too late, or its replica failed after the first token.
        """
        deadline = record.began + self._routes().config.request_timeout_seconds
        failed: Route | None = None
        while True:
            routes = self._routes()
            route = routes.pick(self._draw(), failed)
            try:
                with self._counted(Attempt(route.version.name, routes.config.trial)) as attempt:
                    async with aclosing(self._answer(ask, route, attempt, record, deadline)) as answer:
                        async for piece in answer:
                            yield piece
                return
            except Moved:
                continue
            except Unavailable as error:
                if record.first_token is not None:
                    raise ApiError(502, f"the replica was lost while answering: {error}") from error
                record.retries += 1
                failed = route
            except TimeoutError as error:
                raise ApiError(504, "the answer took longer than requestTimeoutSeconds") from error
            except InvalidGuide as error:
                text = f"response_format: {error}"
                raise ApiError(400, text, param="response_format", code="invalid_response_format") from error
            except Failed as error:
                raise ApiError(500, f"the engine refused the request: {error}") from error

    @contextmanager
    def _counted(self, attempt: Attempt) -> Iterator[Attempt]:
        """Count what becomes of an attempt; a client's own fault, or its leaving, says nothing about the version."""
        try:
            yield attempt
        except (Unavailable, TimeoutError, Failed, ApiError) as error:
            own = isinstance(error, InvalidGuide) or (isinstance(error, ApiError) and error.status < 500)
            if not own:
                self._count(attempt, True)
            raise
        attempt.ended = time.monotonic()
        self._count(attempt, False)

    async def _answer(
        self, ask: Ask, route: Route, attempt: Attempt, record: Record, deadline: float
    ) -> AsyncGenerator[Piece, None]:
        encoded = await _encoded(ask, route)
        record.prompt_tokens = len(encoded.ids)
        size = len(encoded.ids) + encoded.max_tokens
        lease = await route.balancer.acquire(size, _left(deadline), prefix_of(encoded.ids))
        attempt.began = time.monotonic()
        record.queued = attempt.began - record.began
        record.version, record.replica = attempt.version, lease.address
        failed = False
        stream = self._tokens(ask, encoded, route, lease, attempt, record, deadline)
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
        self,
        ask: Ask,
        encoded: Encoded,
        route: Route,
        lease: Lease,
        attempt: Attempt,
        record: Record,
        deadline: float,
    ) -> AsyncGenerator[Piece, None]:
        encoder = route.encoder
        transcript = Transcript(encoder.decode, encoded.stop_ids, ask.stops, encoded.max_tokens)
        job = Job(record.identity, encoded.ids, encoded.max_tokens, encoded.stop_ids, ask)
        source = self._replicas.stream(lease.address, job, _left(deadline))
        text, chosen = "", list[Chosen]()
        try:
            async for step in source:
                if step.ids and record.first_token is None:
                    attempt.first = time.monotonic()
                    record.first_token = attempt.first - record.began
                lease.progress(len(step.ids))
                text = transcript.push(step.ids)
                chosen += _chosen(route, step, transcript.tokens - record.completion_tokens, encoded)
                attempt.tokens = record.completion_tokens = transcript.tokens
                if transcript.finish:
                    break
                if text:
                    yield Piece(text, None, tuple(chosen))
                    chosen = []
                text = ""
        finally:
            await source.aclose()
        if record.first_token is None:
            raise Unavailable("the replica ended the answer before its first token")
        rest = text + transcript.end()
        record.finish = transcript.finish or ""
        yield Piece(rest, record.finish, tuple(chosen))


def _chosen(route: Route, step: Step, count: int, encoded: Encoded) -> list[Chosen]:
    """Return the first `count` tokens of a step, less the one that ends the answer."""
    pairs = list(zip(step.ids, step.logprobs, strict=False))[:count]
    ends = encoded.stop_ids
    return [Chosen(route.vocabulary[token], value) for token, value in pairs if token not in ends]


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())
