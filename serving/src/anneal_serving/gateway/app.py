"""The `gateway` stage: OpenAI's HTTP API on port 8080."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route as Path_

from anneal_api.runs import KEYS_FOLDER
from anneal_serving.gateway import answers, cache, http, openapi, requests, tracing
from anneal_serving.gateway.answers import Form, Usage
from anneal_serving.gateway.balancer import Balancer
from anneal_serving.gateway.cache import Cache
from anneal_serving.gateway.errors import ApiError
from anneal_serving.gateway.generation import Generator, Piece
from anneal_serving.gateway.http import ClientGone, Events, attended
from anneal_serving.gateway.keys import Keys
from anneal_serving.gateway.replicas import Replicas, Source
from anneal_serving.gateway.requests import Ask
from anneal_serving.gateway.routes import Router, Routes
from anneal_serving.gateway.telemetry import Record, Telemetry, log_to_stderr

PORT = 8080
ENV_CONFIG = "ANNEAL_GATEWAY_CONFIG"
ENV_PORT = "ANNEAL_GATEWAY_PORT"
ENV_KEYS = "ANNEAL_GATEWAY_KEYS"
ENV_WORK = "ANNEAL_WORK"
CLIENT_GONE = 499
"""nginx' status for a client that did not wait; only in logs and metrics."""


def main() -> int:
    """Serve until SIGTERM; then take no more connections and finish what runs."""
    log_to_stderr()
    path = Path(os.environ.get(ENV_CONFIG, "/etc/anneal/gateway.json"))
    work = Path(os.environ.get(ENV_WORK, "/work"))
    keys = Keys(Path(os.environ.get(ENV_KEYS, KEYS_FOLDER)))
    gateway = Gateway(Router(path, work / "tokenizers"), keys)
    tracing.configure()
    server_of(gateway.app(), "0.0.0.0", int(os.environ.get(ENV_PORT, PORT))).run()
    return 0


def server_of(app: Starlette, host: str, port: int) -> uvicorn.Server:
    """Return the HTTP server of the application."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http=http.Protocol,
        log_config=None,
        access_log=False,
        timeout_keep_alive=75,
        server_header=False,
    )
    return uvicorn.Server(config)


class Gateway:
    """Handlers of the HTTP API.

    Args:
        router: keeps the route.
        keys: who may ask, where the route's config asks for keys.
        source: where tokens come from; the route's replicas when unset.
    """

    def __init__(self, router: Router, keys: Keys, source: Source | None = None) -> None:
        self._router = router
        self._keys = keys
        self._cache = Cache()
        self._created = int(time.time())
        self.telemetry = Telemetry(self._waiting, self._replicas)
        router.changed = self.telemetry.routed
        self._generator = Generator(
            self._routes, source or Replicas(self._addresses), self.telemetry.attempted
        )

    def app(self) -> Starlette:
        """Return the ASGI application."""
        return Starlette(
            routes=[
                Path_("/v1/models", self._models),
                Path_("/v1/models/{name:path}", self._model),
                Path_("/v1/chat/completions", self._chat, methods=["POST"]),
                Path_("/v1/completions", self._completion, methods=["POST"]),
                Path_("/openapi.json", self._openapi),
                Path_("/healthz", self._health),
                Path_("/readyz", self._ready),
                Path_("/metrics", self._metrics),
            ],
            exception_handlers={
                ApiError: http.api_error,
                404: http.no_path,
                405: http.no_method,
                500: http.internal,
            },
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

    def _routes(self) -> Routes:
        if self._router.current is None:
            text = "the gateway has no route yet; try again in a moment"
            raise ApiError(503, text, code="not_ready", retry_after=1)
        return self._router.current

    def _waiting(self) -> float:
        return sum(balancer.waiting for balancer in self._balancers())

    def _replicas(self) -> float:
        return len(self._addresses())

    def _addresses(self) -> list[str]:
        return [address for balancer in self._balancers() for address in balancer.addresses]

    def _balancers(self) -> list[Balancer]:
        return [route.balancer for route in self._router.current.routes] if self._router.current else []

    async def _models(self, request: Request) -> Response:
        self._client(request)
        return JSONResponse(answers.models(self._routes().config.model, self._created))

    async def _model(self, request: Request) -> Response:
        self._client(request)
        self._check_model(request.path_params["name"])
        return JSONResponse(answers.model(self._routes().config.model, self._created))

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(openapi.DOCUMENT)

    async def _health(self, request: Request) -> Response:
        return PlainTextResponse("ok")

    async def _ready(self, request: Request) -> Response:
        self._routes()
        return PlainTextResponse("ok")

    async def _metrics(self, request: Request) -> Response:
        return Response(self.telemetry.exposition(), media_type="text/plain; version=0.0.4")

    async def _chat(self, request: Request) -> Response:
        return await self._answer(request, "chat.completions", requests.parse_chat)

    async def _completion(self, request: Request) -> Response:
        return await self._answer(request, "completions", requests.parse_completion)

    async def _answer(self, request: Request, name: str, parse: Callable[[bytes], Ask]) -> Response:
        record = Record(name, http.identity_of(request))
        record.span = tracing.begin(name, request.headers)
        self.telemetry.in_flight.inc()
        try:
            response = await self._begin(request, record, parse)
        except ApiError as error:
            record.status, record.error = error.status, error.message
            response = await http.api_error(request, error)
        except ClientGone:
            record.status = CLIENT_GONE
            response = Response(status_code=CLIENT_GONE)
        except BaseException as error:  # a cancelled task gives back its slot too
            record.error = repr(error)
            self._ended(record)
            raise
        response.headers["X-Request-Id"] = record.identity
        if not isinstance(response, Events):
            self._ended(record)
        return response

    async def _begin(self, request: Request, record: Record, parse: Callable[[bytes], Ask]) -> Response:
        record.client = self._client(request)
        ask = parse(await http.body_of(request))
        record.stream = ask.stream
        self._check_model(ask.model)
        if self._routes().config.api_keys:
            record.leave = self._keys.admit(record.client)
        form = Form(
            record.identity, int(time.time()), ask.model, chat=ask.chat is not None, logprobs=ask.logprobs
        )
        pieces = self._pieces(ask, record)
        if not ask.stream:
            async with attended(request.receive):
                whole = await _whole(pieces)
            record.status = 200
            usage = Usage(record.prompt_tokens, record.completion_tokens)
            return JSONResponse(form.whole(whole, usage))
        # Errors before the first token have their own status; afterwards only an event is left to say so.
        async with attended(request.receive):
            first = await anext(pieces)
        record.status = 200
        return Events(self._events(first, pieces, form, ask, record), lambda: self._close(pieces, record))

    def _pieces(self, ask: Ask, record: Record) -> AsyncGenerator[Piece, None]:
        made = self._generator.pieces(ask, record)
        config = self._routes().config
        if not (config.cache and ask.deterministic):
            return made
        engines = sorted(version.engine.digest for version in config.versions)
        return self._cache.pieces(cache.key_of(ask, record.client, engines), made, record)

    async def _events(
        self, first: Piece, pieces: AsyncGenerator[Piece, None], form: Form, ask: Ask, record: Record
    ) -> AsyncIterator[bytes]:
        opening = answers.event(form.opening()) if form.chat else b""
        yield opening + answers.event(form.chunk(first))
        try:
            async for piece in pieces:
                yield answers.event(form.chunk(piece))
        except ApiError as error:
            record.status, record.error = error.status, error.message
            yield answers.event(error.body)
        else:
            if ask.usage:
                usage = Usage(record.prompt_tokens, record.completion_tokens)
                yield answers.event(form.usage_chunk(usage))
        yield answers.DONE

    async def _close(self, pieces: AsyncGenerator[Piece, None], record: Record) -> None:
        await pieces.aclose()
        if record.status == 200 and not record.finish:
            record.status = CLIENT_GONE
        self._ended(record)

    def _ended(self, record: Record) -> None:
        record.leave.ended(record.prompt_tokens + record.completion_tokens)
        self.telemetry.in_flight.dec()
        self.telemetry.ended(record)
        tracing.end(record)

    def _client(self, request: Request) -> str:
        """Return who asks; nobody in particular where no keys are asked for."""
        if not self._routes().config.api_keys:
            return ""
        return self._keys.check(request.headers.get("authorization", ""))

    def _check_model(self, name: str) -> None:
        served = self._routes().config.model
        if name != served:
            text = f"model: {name!r} is not served here; use {served!r}"
            raise ApiError(404, text, param="model", code="model_not_found")


async def _whole(pieces: AsyncGenerator[Piece, None]) -> Piece:
    """Return all pieces as one."""
    found = [piece async for piece in pieces]
    tokens = tuple(token for piece in found for token in piece.tokens)
    return Piece("".join(piece.text for piece in found), found[-1].finish, tokens)
