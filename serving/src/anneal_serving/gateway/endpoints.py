"""Which replicas are ready: a list and watch of a Service's EndpointSlices with the pod's own account.

A small client in place of the kubernetes package: two requests, and the gateway's start stays under a second.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import httpx

GRPC_PORT = 8001
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_WATCH_SECONDS = 300
_RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0)

Slices = dict[str, dict[str, Any]]
_log = logging.getLogger("anneal.gateway")


class Expired(Exception):
    """The watch cannot go on from where it was; list again."""


def addresses(slices: Iterable[dict[str, Any]]) -> set[str]:
    """Return host:port of every endpoint that is ready and not on its way out."""
    return {
        _join(address, _port(part))
        for part in slices
        for endpoint in part.get("endpoints") or []
        if _ready(endpoint.get("conditions") or {})
        for address in endpoint["addresses"]
    }


def apply(slices: Slices, event: dict[str, Any]) -> Slices:
    """Return `slices` after a watch event.

    Raises:
        Expired: the API server no longer has what the watch began with.
    """
    kind, found = event["type"], event["object"]
    if kind == "ERROR":
        raise Expired(found.get("message", ""))
    if kind == "BOOKMARK":
        return slices
    name = found["metadata"]["name"]
    others = {key: value for key, value in slices.items() if key != name}
    return others if kind == "DELETED" else {**others, name: found}


def _ready(conditions: dict[str, Any]) -> bool:
    # An unset `ready` means unknown, which the API asks to read as ready.
    return conditions.get("ready") is not False and not conditions.get("terminating")


def _port(part: dict[str, Any]) -> int:
    named = {port.get("name"): port.get("port") for port in part.get("ports") or []}
    return named.get("grpc") or GRPC_PORT


def _join(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def in_cluster() -> httpx.AsyncClient:
    """Return a client of the API server, as this pod's service account."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    return httpx.AsyncClient(
        base_url=f"https://{_join(host, int(port))}",
        verify=str(_ACCOUNT / "ca.crt"),
        auth=TokenAuth(_ACCOUNT / "token"),
        timeout=httpx.Timeout(10, read=_WATCH_SECONDS + 15),
    )


class TokenAuth(httpx.Auth):
    """Reads the token for every request: the kubelet replaces it hourly."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def auth_flow(self, request: httpx.Request) -> Any:
        """Add the token."""
        request.headers["Authorization"] = f"Bearer {self._path.read_text().strip()}"
        yield request


async def watch(
    client: httpx.AsyncClient, namespace: str, service: str, update: Callable[[set[str]], None]
) -> None:
    """Call `update` with the ready replicas of `service` whenever they change, for ever.

    While the API server is away nothing is called, so the last known routes stay.
    """
    failures = 0
    while True:
        try:
            async for slices in follow(client, namespace, service):
                failures = 0
                update(addresses(slices.values()))
        except (httpx.HTTPError, Expired, ValueError, KeyError, OSError) as error:
            failures += 1
            _log.warning("watch of endpoints ended", extra={"error": repr(error), "failures": failures})
        # Also after a watch that ended well: a server that ends each at once is not asked without pause.
        await asyncio.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])


async def follow(client: httpx.AsyncClient, namespace: str, service: str) -> AsyncIterator[Slices]:
    """Yield a Service's EndpointSlices once listed and after every event, until the server ends the watch."""
    path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    chosen = {"labelSelector": f"kubernetes.io/service-name={service}"}
    listed = (await client.get(path, params=chosen)).raise_for_status().json()
    slices: Slices = {item["metadata"]["name"]: item for item in listed.get("items") or []}
    yield slices
    version = listed["metadata"]["resourceVersion"]
    options = {"watch": "true", "resourceVersion": version, "timeoutSeconds": str(_WATCH_SECONDS)}
    async with client.stream("GET", path, params=chosen | options) as response:
        if response.is_error:
            raise Expired(f"HTTP {response.status_code}")
        async for line in response.aiter_lines():
            slices = apply(slices, json.loads(line))
            yield slices
