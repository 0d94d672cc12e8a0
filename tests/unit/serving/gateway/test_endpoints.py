"""Ready replicas out of EndpointSlices, and a watch that outlives its API server."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from anneal_serving.gateway import endpoints


def part(name: str, *hosts: str, **conditions: bool) -> dict[str, Any]:
    found = [{"addresses": [host], "conditions": {"ready": True} | conditions} for host in hosts]
    ports = [{"name": "http", "port": 8000}, {"name": "grpc", "port": 9001}]
    return {"metadata": {"name": name}, "endpoints": found, "ports": ports}


def test_only_ready_endpoints_at_the_grpc_port() -> None:
    slices = [part("a", "10.0.0.1", "fd00::1"), part("b", "10.0.0.2", ready=False)]
    assert endpoints.addresses(slices) == {"10.0.0.1:9001", "[fd00::1]:9001"}


def test_one_on_its_way_out_takes_no_more_requests() -> None:
    assert endpoints.addresses([part("a", "10.0.0.1", terminating=True)]) == set()


def test_unknown_readiness_reads_as_ready() -> None:
    assert endpoints.addresses([{"endpoints": [{"addresses": ["h"]}]}]) == {"h:8001"}


def test_a_slice_without_endpoints_is_empty() -> None:
    assert endpoints.addresses([{"endpoints": None, "ports": None}]) == set()


def test_events_change_the_slices() -> None:
    before = {"a": part("a", "1")}
    added = endpoints.apply(before, {"type": "ADDED", "object": part("b", "2")})
    assert set(added) == {"a", "b"}
    assert set(endpoints.apply(added, {"type": "DELETED", "object": part("a")})) == {"b"}
    assert endpoints.apply(before, {"type": "BOOKMARK", "object": {}}) == before
    with pytest.raises(endpoints.Expired):
        endpoints.apply(before, {"type": "ERROR", "object": {"code": 410, "message": "too old"}})


class Lines(httpx.AsyncByteStream):
    def __init__(self, *events: dict[str, Any]) -> None:
        self._events = events

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for event in self._events:
            yield json.dumps(event).encode() + b"\n"


class ApiServer:
    """Answers list and watch; the second list fails as a server that is away does."""

    def __init__(self) -> None:
        self.lists = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.url.params["labelSelector"] == "kubernetes.io/service-name=replicas"
        if "watch" in request.url.params:
            assert request.url.params["resourceVersion"] == "7"
            return httpx.Response(200, stream=Lines({"type": "MODIFIED", "object": part("a", "2")}))
        self.lists += 1
        if self.lists == 2:
            raise httpx.ConnectError("away")
        host = "1" if self.lists == 1 else "3"
        return httpx.Response(200, json={"metadata": {"resourceVersion": "7"}, "items": [part("a", host)]})


async def test_last_known_routes_stay_while_the_api_server_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "_RETRY_SECONDS", (0.01,))
    server, seen, third = ApiServer(), [], asyncio.Event()

    def update(found: set[str]) -> None:
        seen.append(found)
        if server.lists == 3:
            third.set()

    async with httpx.AsyncClient(transport=httpx.MockTransport(server), base_url="http://api") as client:
        watching = asyncio.create_task(endpoints.watch(client, "team", "replicas", update))
        await asyncio.wait_for(third.wait(), 5)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert seen[:3] == [{"1:9001"}, {"2:9001"}, {"3:9001"}]
