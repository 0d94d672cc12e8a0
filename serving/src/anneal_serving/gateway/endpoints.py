"""What the API server tells: which replicas of a Service are ready, and the gateway's own config. A list and a watch
of EndpointSlices, and of one ConfigMap, with the pod's own account.

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

from anneal_api.runs import GATEWAY_KEY

GRPC_PORT = 8001
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_WATCH_SECONDS = 300
_RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0)

Objects = dict[str, dict[str, Any]]
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


def apply(objects: Objects, event: dict[str, Any]) -> Objects:
    """Return `objects` by name after a watch event.

    Raises:
        Expired: the API server no longer has what the watch began with.
    """
    kind, found = event["type"], event["object"]
    if kind == "ERROR":
        raise Expired(found.get("message", ""))
    if kind == "BOOKMARK":
        return objects
    name = found["metadata"]["name"]
    others = {key: value for key, value in objects.items() if key != name}
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
    """Call `update` with the ready replicas of `service` whenever they change, for ever."""
    path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    chosen = {"labelSelector": f"kubernetes.io/service-name={service}"}
    await _watch(client, path, chosen, lambda slices: update(addresses(slices.values())))


async def watch_config(
    client: httpx.AsyncClient, namespace: str, name: str, update: Callable[[str], None]
) -> None:
    """Call `update` with the gateway's config in the ConfigMap `name` whenever it changes, for ever."""

    def told(found: Objects) -> None:
        if name in found:
            update(found[name]["data"][GATEWAY_KEY])

    path = f"/api/v1/namespaces/{namespace}/configmaps"
    await _watch(client, path, {"fieldSelector": f"metadata.name={name}"}, told)


async def _watch(
    client: httpx.AsyncClient, path: str, chosen: dict[str, str], told: Callable[[Objects], None]
) -> None:
    """Tell the chosen objects by name, for ever.

    While the API server is away nothing is told, so what was known last stays.
    """
    failures = 0
    while True:
        try:
            async for found in _follow(client, path, chosen):
                failures = 0
                told(found)
        except (httpx.HTTPError, Expired, ValueError, KeyError, OSError) as error:
            failures += 1
            _log.warning("watch ended", extra={"path": path, "error": repr(error), "failures": failures})
        # Also after a watch that ended well: a server that ends each at once is not asked without pause.
        await asyncio.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])


async def _follow(client: httpx.AsyncClient, path: str, chosen: dict[str, str]) -> AsyncIterator[Objects]:
    """Yield the chosen objects once listed and after every event, until the server ends the watch."""
    listed = (await client.get(path, params=chosen)).raise_for_status().json()
    found: Objects = {item["metadata"]["name"]: item for item in listed.get("items") or []}
    yield found
    version = listed["metadata"]["resourceVersion"]
    options = {"watch": "true", "resourceVersion": version, "timeoutSeconds": str(_WATCH_SECONDS)}
    async with client.stream("GET", path, params=chosen | options) as response:
        if response.is_error:
            raise Expired(f"HTTP {response.status_code}")
        async for line in response.aiter_lines():
            found = apply(found, json.loads(line))
            yield found
