"""The plain HTTP side of the gateway: bodies, streams that end with their client, errors in OpenAI's shape."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from anneal_serving.gateway.errors import ApiError

BODY_LIMIT = 16 << 20
_IDENTITY = re.compile(r"[A-Za-z0-9_.-]{1,64}")
T = TypeVar("T")


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
