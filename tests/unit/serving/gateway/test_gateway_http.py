"""A client that goes ends what is done for it, and nothing else does; one that sends no end of headers is refused."""

import asyncio
import contextlib
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from anneal_serving.gateway.http import HEAD_LIMIT, ClientGone, attended

LINE = b"POST /v1/completions HTTP/1.1\r\nHost: gateway\r\n"
MUCH = HEAD_LIMIT + (256 << 10)
"""More than is allowed, and what may be read at once on top."""


class Client:
    """Sends its whole request, and later goes."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self._sent = False

    async def receive(self) -> dict[str, Any]:
        if not self._sent:
            self._sent = True
            return {"type": "http.request"}
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def test_a_client_that_goes_ends_the_work() -> None:
    client, ended = Client(), []
    asyncio.get_running_loop().call_soon(client.gone.set)
    with pytest.raises(ClientGone):
        async with attended(client.receive):
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(True)
    assert ended
    await asyncio.sleep(0)  # the task itself is not cancelled for good


async def test_one_that_goes_later_ends_nothing() -> None:
    client = Client()
    async with attended(client.receive):
        await asyncio.sleep(0)
    client.gone.set()
    for _ in range(3):
        await asyncio.sleep(0)


async def test_an_end_from_elsewhere_is_none_of_the_clients() -> None:
    client = Client()

    async def work() -> None:
        async with attended(client.receive):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_the_work_raises_is_passed_on() -> None:
    with pytest.raises(KeyError):
        async with attended(Client().receive):
            raise KeyError


def answer_to(url: str, sent: bytes) -> bytes:
    """Return what the gateway says to bytes as they are, until it closes."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=10) as client:
        with contextlib.suppress(ConnectionError):  # refused while some of it is still on its way
            client.sendall(sent)
        with contextlib.suppress(ConnectionResetError):
            return client.recv(4096)
    return b""


@pytest.mark.parametrize(
    "sent",
    [
        LINE + b"X-Long: " + b"x" * MUCH,
        LINE + b"X-Short: x\r\n" * (MUCH // 12),
        LINE + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * MUCH,
        LINE + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X-Short: x\r\n" * (MUCH // 12),
        b"GET /" + b"x" * MUCH,
    ],
    ids=["a header", "headers", "chunks", "trailers", "a path"],
)
def test_what_is_no_body_has_a_limit(url: str, sent: bytes) -> None:
    answer = answer_to(url, sent)
    assert answer.startswith(b"HTTP/1.1 400 ") or not answer
    assert httpx.get(f"{url}/healthz").text == "ok"


def test_a_body_may_be_longer_however_it_is_sent(url: str) -> None:
    body = json.dumps({"model": "tiny", "prompt": "x " * HEAD_LIMIT}).encode()
    parts = (body[start : start + 64] for start in range(0, len(body), 64))
    with httpx.Client(base_url=url) as client:
        for content in (body, parts):
            answer = client.post("/v1/completions", content=content)
            assert answer.json()["error"]["code"] == "context_length_exceeded"
        assert client.get("/healthz", headers={"X-Long": "x" * (HEAD_LIMIT // 2)}).text == "ok"
