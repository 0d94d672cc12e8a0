"""The `gateway` stage: OpenAI's HTTP API on port 8080."""

import asyncio
import logging
import os
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route as Path_
from starlette.types import Receive, Scope, Send

from anneal_serving.gateway import answers, requests
from anneal_serving.gateway.answers import Form, Usage
from anneal_serving.gateway.errors import ApiError
from anneal_serving.gateway.generation import Generator, Piece
from anneal_serving.gateway.replicas import Replicas
from anneal_serving.gateway.requests import Ask
from anneal_serving.gateway.routes import Route, Router
from anneal_serving.gateway.telemetry import Record, Telemetry, log_to_stderr

PORT = 8080
ENV_CONFIG = "ANNEAL_GATEWAY_CONFIG"
ENV_PORT = "ANNEAL_GATEWAY_PORT"
ENV_WORK = "ANNEAL_WORK"
CLIENT_GONE = 499
"""nginx' status for a client that did not wait; only in logs and metrics."""
BODY_LIMIT = 16 << 20
_IDENTITY = re.compile(r"[\w.-]{1,64}")
_log = logging.getLogger("anneal.gateway")
T = TypeVar("T")


class ClientGone(Exception):
    """The client closed the connection before there was anything to send."""


def main() -> int:
    """Serve until SIGTERM; then take no more connections and finish what runs."""
    log_to_stderr()
    path = Path(os.environ.get(ENV_CONFIG, "/etc/anneal/gateway.json"))
    work = Path(os.environ.get(ENV_WORK, "/work"))
    gateway = Gateway(Router(path, work / "tokenizers"))
    config = uvicorn.Config(
        gateway.app(),
        host="0.0.0.0",
        port=int(os.environ.get(ENV_PORT, PORT)),
        log_config=None,
        access_log=False,
        timeout_keep_alive=75,
        server_header=False,
    )
    uvicorn.Server(config).run()
    return 0


class Gateway:
    """Handlers of the HTTP API."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._created = int(time.time())
        self._generator = Generator(self._route, Replicas(self._addresses))
        self.telemetry = Telemetry(self._waiting, self._replicas)

    def app(self) -> Starlette:
        """Return the ASGI application."""
        return Starlette(
            routes=[
                Path_("/v1/models", self._models),
                Path_("/v1/models/{name:path}", self._model),
                Path_("/v1/chat/completions", self._chat, methods=["POST"]),
                Path_("/v1/completions", self._completion, methods=["POST"]),
                Path_("/healthz", self._health),
                Path_("/readyz", self._ready),
                Path_("/metrics", self._metrics),
            ],
            exception_handlers={ApiError: _api_error, 404: _no_path, 405: _no_method, 500: _internal},
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        follower = asyncio.create_task(self._router.run())
        yield
        follower.cancel()
        with suppress(asyncio.CancelledError):
            await follower
        await self._router.close()

    def _route(self) -> Route:
        if self._router.current is None:
            text = "the gateway has no route yet; try again in a moment"
            raise ApiError(503, text, code="not_ready", retry_after=1)
        return self._router.current

    def _waiting(self) -> float:
        return self._router.current.balancer.waiting if self._router.current else 0

    def _replicas(self) -> float:
        return len(self._addresses())

    def _addresses(self) -> list[str]:
        return self._router.current.balancer.addresses if self._router.current else []

    async def _models(self, request: Request) -> Response:
        return JSONResponse(answers.models(self._route().config.model, self._created))

    async def _model(self, request: Request) -> Response:
        self._check_model(request.path_params["name"])
        return JSONResponse(answers.model(self._route().config.model, self._created))

    async def _health(self, request: Request) -> Response:
        return PlainTextResponse("ok")

    async def _ready(self, request: Request) -> Response:
        self._route()
        return PlainTextResponse("ok")

    async def _metrics(self, request: Request) -> Response:
        return Response(self.telemetry.exposition(), media_type="text/plain; version=0.0.4")

    async def _chat(self, request: Request) -> Response:
        return await self._answer(request, "chat.completions", requests.parse_chat)

    async def _completion(self, request: Request) -> Response:
        return await self._answer(request, "completions", requests.parse_completion)

    async def _answer(self, request: Request, name: str, parse: Callable[[bytes], Ask]) -> Response:
        record = Record(name, _identity(request))
        self.telemetry.in_flight.inc()
        try:
            response = await self._begin(request, record, parse)
        except ApiError as error:
            record.status, record.error = error.status, error.message
            response = await _api_error(request, error)
        except ClientGone:
            record.status = CLIENT_GONE
            response = Response(status_code=CLIENT_GONE)
        except Exception as error:
            record.error = repr(error)
            self._ended(record)
            raise
        response.headers["X-Request-Id"] = record.identity
        if not isinstance(response, Events):
            self._ended(record)
        return response

    async def _begin(self, request: Request, record: Record, parse: Callable[[bytes], Ask]) -> Response:
        ask = parse(await _body(request))
        record.stream = ask.stream
        self._check_model(ask.model)
        form = Form(record.identity, int(time.time()), ask.model, chat=ask.chat is not None)
        pieces = self._generator.pieces(ask, record)
        if not ask.stream:
            text = await attended(request, _whole(pieces), pieces.aclose)
            record.status = 200
            usage = Usage(record.prompt_tokens, record.completion_tokens)
            return JSONResponse(form.whole(text, record.finish, usage))
        # Errors before the first token have their own status; afterwards only an event is left to say so.
        first = await attended(request, anext(pieces), pieces.aclose)
        record.status = 200
        return Events(self._events(first, pieces, form, ask, record), lambda: self._close(pieces, record))

    async def _events(
        self, first: Piece, pieces: Any, form: Form, ask: Ask, record: Record
    ) -> AsyncIterator[bytes]:
        if form.chat:
            yield answers.event(form.chunk(role=True))
        yield answers.event(form.chunk(first.text, first.finish))
        try:
            async for piece in pieces:
                yield answers.event(form.chunk(piece.text, piece.finish))
        except ApiError as error:
            record.status, record.error = error.status, error.message
            yield answers.event(error.body)
        else:
            if ask.usage:
                usage = Usage(record.prompt_tokens, record.completion_tokens)
                yield answers.event(form.usage_chunk(usage))
        yield answers.DONE

    async def _close(self, pieces: Any, record: Record) -> None:
        await pieces.aclose()
        if record.status == 200 and not record.finish:
            record.status = CLIENT_GONE
        self._ended(record)

    def _ended(self, record: Record) -> None:
        self.telemetry.in_flight.dec()
        self.telemetry.ended(record)

    def _check_model(self, name: str) -> None:
        served = self._route().config.model
        if name != served:
            text = f"model: {name!r} is not served here; use {served!r}"
            raise ApiError(404, text, param="model", code="model_not_found")


class Events(StreamingResponse):
    """A stream of server-sent events that is closed however it ends, also when the client goes."""

    def __init__(self, content: AsyncIterator[bytes], close: Callable[[], Awaitable[None]]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(content, media_type="text/event-stream", headers=headers)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._close()


async def attended(request: Request, work: Coroutine[Any, Any, T], close: Callable[[], Awaitable[None]]) -> T:
    """Return the result of `work` while the client waits for it.

    Raises:
        ClientGone: it does no longer; `work` was cancelled.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)
        if task.cancelled() or task.exception() is not None:
            await close()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _whole(pieces: Any) -> str:
    return "".join([piece.text async for piece in pieces])


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > BODY_LIMIT:
            raise ApiError(413, f"the body is larger than {BODY_LIMIT >> 20} MiB; shorten it")
        parts.append(part)
    return b"".join(parts)


def _identity(request: Request) -> str:
    given = request.headers.get("x-request-id", "")
    return given if _IDENTITY.fullmatch(given) else uuid.uuid4().hex


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status, headers=error.headers)


async def _no_path(request: Request, error: Exception) -> Response:
    text = f"{request.url.path} is not served; see /v1/models, /v1/chat/completions, /v1/completions"
    return await _api_error(request, ApiError(404, text))


async def _no_method(request: Request, error: Exception) -> Response:
    return await _api_error(request, ApiError(405, f"{request.method} is not accepted here; use POST"))


async def _internal(request: Request, error: Exception) -> Response:
    return await _api_error(request, ApiError(500, "the gateway failed; its log says why"))
