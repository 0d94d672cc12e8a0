"""The plain HTTP side of the gateway: bodies, streams that end with their client, errors in OpenAI's shape."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from anneal_serving.gateway.errors import ApiError

BODY_LIMIT = 16 << 20
HEAD_LIMIT = 64 << 10
_IDENTITY = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP by httptools, which bounds the application's part alone: here also what is no body, that is a
    request's line, its headers and the framing of chunks."""

    _beyond = 0
    """Bytes of this request so far, less twice those of its body: chunks may frame as much as they hold."""

    def data_received(self, data: bytes) -> None:
        """Take what has come; refuse the request where most of it says nothing."""
        self._beyond += len(data)
        super().data_received(data)
        if self._beyond > HEAD_LIMIT and not self.transport.is_closing():
            self.send_400_response(f"What is no body is longer than {HEAD_LIMIT >> 10} KiB.")

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._beyond -= 2 * len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request."""
        super().on_message_complete()
        self._beyond = 0


class ClientGone(Exception):
    """The client closed the connection before there was anything to send."""


class Events(StreamingResponse):
    """A stream of server-sent events that is closed however it ends, also when the client goes."""

    def __init__(self, content: AsyncIterator[bytes], close: Callable[[], Awaitable[None]]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(content, media_type="text/event-stream", headers=headers)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            with suppress(ClientGone):
                async with attended(receive):
                    await self.stream_response(send)
        finally:
            await self._close()


@asynccontextmanager
async def attended(receive: Receive) -> AsyncIterator[None]:
    """Let the block run while the client waits for it.

    Raises:
        ClientGone: it does no longer; what the block awaited was cancelled.
    """
    task = asyncio.current_task()
    assert task is not None
    watch = asyncio.create_task(_cancel_when_gone(task, receive))
    try:
        yield
    except asyncio.CancelledError:
        if watch.done() and task.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        watch.cancel()


async def _cancel_when_gone(task: "asyncio.Task[Any]", receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()


async def body_of(request: Request) -> bytes:
    """Return the body, or raise ApiError 413 when it is too large."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > BODY_LIMIT:
            raise ApiError(413, f"the body is larger than {BODY_LIMIT >> 20} MiB; shorten it")
        parts.append(part)
    return b"".join(parts)


def identity_of(request: Request) -> str:
    """Return the request's own id where it has a plain one, else a new one."""
    given = request.headers.get("x-request-id", "")
    return given if _IDENTITY.fullmatch(given) else uuid.uuid4().hex


async def api_error(request: Request, error: Exception) -> Response:
    """Return an ApiError as a response."""
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status, headers=error.headers)


async def no_path(request: Request, error: Exception) -> Response:
    """Return what is served, where something else was asked for."""
    text = f"{request.url.path} is not served; see /openapi.json"
    return await api_error(request, ApiError(404, text))


async def no_method(request: Request, error: Exception) -> Response:
    """Return that the path takes another method."""
    headers = dict(getattr(error, "headers", None) or {})
    found = await api_error(
        request, ApiError(405, f"{request.method} is not accepted here; see /openapi.json")
    )
    found.headers.update(headers)
    return found


async def internal(request: Request, error: Exception) -> Response:
    """Return that it is the gateway's own fault; the log has the rest."""
    return await api_error(request, ApiError(500, "the gateway failed; its log says why"))
