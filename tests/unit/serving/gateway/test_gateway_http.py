"""A client that goes ends what is done for it, and nothing else does."""

import asyncio
from typing import Any

import pytest

from anneal_serving.gateway.http import ClientGone, attended


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
