"""The client of replicas, against a server that speaks their protocol and says what a test wrote down."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from anneal_serving.gateway import requests
from anneal_serving.gateway.replicas import Failed, InvalidGuide, Job, Replicas, Step, Unavailable
from anneal_serving.triton import tensors


@dataclass
class Replica(service_pb2_grpc.GRPCInferenceServiceServicer):
    """A replica that says token after token, then an error if it has one, or nothing more until it is told to."""

    tokens: list[int] = field(default_factory=list)
    error: str = ""
    holds: bool = False
    heard: list[Any] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def ModelStreamInfer(self, asked: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Answer when all has been heard."""
        self.heard = [each async for each in asked]
        try:
            for token in self.tokens:
                yield response([token])
            if self.error:
                yield service_pb2.ModelStreamInferResponse(error_message=self.error)
            if self.holds:
                await asyncio.Event().wait()
        finally:
            self.left.set()


def response(ids: list[int]) -> Any:
    found = service_pb2.ModelStreamInferResponse()
    for name, values in (("output_ids", ids), ("sequence_length", [len(ids)])):
        found.infer_response.outputs.add(name=name, datatype="INT32", shape=[1, 1, len(values)])
        found.infer_response.raw_output_contents.append(np.array(values, np.int32).tobytes())
    return found


@pytest.fixture
async def replica() -> AsyncGenerator[tuple[Replica, str], None]:
    replica, server = Replica(), grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(replica, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield replica, f"127.0.0.1:{port}"
    await server.stop(None)


def job() -> Job:
    ask = requests.parse_completion(json.dumps({"model": "m", "prompt": [5, 6]}).encode())
    return Job("id", [5, 6], 4, [2], ask)


async def steps(address: str, timeout: float = 10) -> list[Step]:
    known: list[str] = []  # the replica has left: its connection is closed after the request
    return [step async for step in Replicas(lambda: known).stream(address, job(), timeout)]


async def test_a_request_is_one_message_and_tokens_come_as_they_are_made(
    replica: tuple[Replica, str],
) -> None:
    server, address = replica
    server.tokens = [7, 8]
    assert await steps(address) == [Step([7], []), Step([8], [])]
    (heard,) = server.heard
    assert (heard.model_name, heard.id) == (tensors.MODEL, "id")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("in ensemble, Server is stopping, scheduler has stopped", Unavailable),
        ("input_ids: ids are 0 to 511", Failed),
        (f"{tensors.INVALID_GUIDE}Unclosed '['", InvalidGuide),
    ],
)
async def test_an_error_says_whether_another_replica_may_do_better(
    replica: tuple[Replica, str], error: str, kind: type[Exception]
) -> None:
    server, address = replica
    server.error = error
    with pytest.raises(kind) as caught:
        await steps(address)
    assert type(caught.value) is kind
    assert str(caught.value) == error.removeprefix(tensors.INVALID_GUIDE)


async def test_where_nobody_listens_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await steps("127.0.0.1:1")


async def test_an_answer_that_takes_too_long_is_ended(replica: tuple[Replica, str]) -> None:
    server, address = replica
    server.holds = True
    with pytest.raises(TimeoutError):
        await steps(address, timeout=0.1)
    await asyncio.wait_for(server.left.wait(), 5)


async def test_who_stops_listening_cancels_the_request(replica: tuple[Replica, str]) -> None:
    server, address = replica
    server.tokens, server.holds = [7], True
    stream = Replicas(list).stream(address, job(), 10)
    assert await anext(stream) == Step([7], [])
    await stream.aclose()
    await asyncio.wait_for(server.left.wait(), 5)
