"""What the gateway routes to: the config, and for each version its engine's tokenizer and its replicas.

The operator changes the config with every step of a rollout. A new version's route is made ready beside the
others before any request may take it; a route that stays keeps its queue and all it knows. What runs on a
route that goes ends there, what waits moves over.
"""

import asyncio
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import httpx

from anneal_api.artifacts import Manifest
from anneal_api.base import ArtifactRef
from anneal_api.runs import GatewayConfig, GatewayVersion
from anneal_runtime import artifacts, storage
from anneal_runtime.chat import CHAT_FILE, ChatEncoder
from anneal_runtime.errors import Refused, StageError
from anneal_serving.gateway import endpoints, load
from anneal_serving.gateway.balancer import Balancer
from anneal_serving.vocabulary import token_bytes

ENV_REPLICAS = "ANNEAL_REPLICAS"
"""host:port,host:port in place of a watch, for use outside a cluster."""
TOKENIZER_FILES = ("tokenizer.json", CHAT_FILE)
POLL_SECONDS = 1.0
LIST_SECONDS = 10.0

_log = logging.getLogger("anneal.gateway")


@dataclass(frozen=True)
class Route:
    """One version of the model behind the endpoint."""

    version: GatewayVersion
    encoder: ChatEncoder
    balancer: Balancer

    @cached_property
    def vocabulary(self) -> list[bytes]:
        """What every token writes by itself."""
        return token_bytes(self.encoder.tokenizer)


@dataclass(frozen=True)
class Routes:
    """All versions of a config."""

    config: GatewayConfig
    routes: Sequence[Route]

    def pick(self, draw: float, failed: Route | None = None) -> Route:
        """Return a version by its weight, one that has replicas if any has.

        Args:
            draw: a random number, at least 0 and below 1.
            failed: the version that a request has just failed on; another one is preferred.
        """
        able = [route for route in self.routes if route.balancer.addresses] or list(self.routes)
        others = [route for route in able if route is not failed] or able
        return _weighted(others, draw)

    def settle(self) -> None:
        """Send those who wait for a version without replicas to one that has some."""
        if any(route.balancer.addresses for route in self.routes):
            for route in self.routes:
                if not route.balancer.addresses:
                    route.balancer.move()


def _weighted(routes: Sequence[Route], draw: float) -> Route:
    """Return the route in whose part of the line from 0 to the sum of all weights a draw falls."""
    left = draw * sum(route.version.weight for route in routes)
    for route in routes:
        left -= route.version.weight
        if left < 0:
            return route
    return routes[0]


def load_encoder(engine: ArtifactRef, cache: Path) -> ChatEncoder:
    """Read the engine artifact's tokenizer and chat template; the weights beside them are not touched.

    Raises:
        Refused: nothing is published there, or not what the config names.
    """
    manifest = artifacts.published(engine.uri)
    if manifest is None or manifest.digest != engine.digest:
        found = manifest.digest if manifest else "nothing"
        raise Refused("EngineChanged", f"{engine.uri} holds {found} and {engine.digest} was asked for")
    folder = cache / engine.digest.removeprefix("sha256:")
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        _copy(engine.uri, manifest, name, folder)
    return ChatEncoder.load(folder)


def _copy(uri: str, manifest: Manifest, name: str, folder: Path) -> None:
    file = next((file for file in manifest.files if file.path == name), None)
    if file is None:
        raise Refused("NoTokenizer", f"{uri} has no {name}; build the engine again")
    filesystem, path = storage.resolve(storage.join(uri, name))
    with filesystem.open(path, "rb") as source, (folder / name).open("wb") as target:
        shutil.copyfileobj(source, target)
    artifacts.verify(folder, file, uri)


class Router:
    """Keeps the current routes.

    Args:
        path: the config file; re-read when it changes.
        cache: folder for tokenizers.
        client: makes a client of the API server.
    """

    def __init__(
        self,
        path: Path,
        cache: Path,
        client: Callable[[], httpx.AsyncClient] = endpoints.in_cluster,
    ) -> None:
        self._path = path
        self._cache = cache
        self._client = client
        self._told: bytes | None = None
        self._text = b""
        self._watch: asyncio.Task[None] | None = None
        self._followers: dict[Balancer, asyncio.Task[None]] = {}
        self.current: Routes | None = None
        self.changed: Callable[[GatewayConfig], None] = lambda config: None
        """Told of every config that is routed by."""

    async def run(self) -> None:
        """Follow the config for ever; while it cannot be used, the routes before it stay."""
        complaint = ""
        while True:
            try:
                await self.refresh()
                complaint = ""
            except (StageError, ValueError, OSError) as error:
                if str(error) != complaint:
                    complaint = str(error)
                    _log.error(
                        "the route cannot be used", extra={"error": complaint, "path": str(self._path)}
                    )
            await asyncio.sleep(POLL_SECONDS)

    async def refresh(self) -> None:
        """Read the config and, when it has changed, swap in the new routes."""
        # What the API server told is never older than what the kubelet has mounted.
        text = self._path.read_bytes() if self._told is None else self._told
        if text == self._text:
            return
        config = GatewayConfig.model_validate_json(text)
        await self._swap(Routes(config, [await self._route(config, version) for version in config.versions]))
        self._text = text
        if self._watch is None and config.config_map:
            self._watch = asyncio.create_task(self._watch_config(config))

    async def close(self) -> None:
        """End all watches."""
        await _end([*self._followers.values(), *([self._watch] if self._watch else [])])

    async def _route(self, config: GatewayConfig, version: GatewayVersion) -> Route:
        """Return a version's route: the one there is, if nothing but its weight has changed."""
        for known in self.current.routes if self.current else ():
            if known.version.model_copy(update={"weight": version.weight}) == version:
                known.balancer.max_queue = config.max_queue
                return replace(known, version=version)
        encoder = await asyncio.to_thread(load_encoder, version.engine, self._cache)
        return Route(version, encoder, Balancer(version.max_batch_size, config.max_queue))

    async def _swap(self, routes: Routes) -> None:
        new = [route for route in routes.routes if route.balancer not in self._followers]
        await asyncio.gather(*(self._begin(routes.config.namespace, route) for route in new))
        self.current = routes
        gone = set(self._followers).difference(route.balancer for route in routes.routes)
        await _end([self._followers.pop(balancer) for balancer in gone])
        for balancer in gone:
            balancer.close()
        routes.settle()
        self.changed(routes.config)
        shares = {route.version.service: route.version.weight for route in routes.routes}
        _log.info("route", extra={"shares": shares, "trial": routes.config.trial})

    async def _begin(self, namespace: str, route: Route) -> None:
        """Begin to follow a version's replicas, and wait until they are known."""
        listed = asyncio.Event()
        self._followers[route.balancer] = asyncio.create_task(self._follow(namespace, route, listed))
        with suppress(TimeoutError):
            await asyncio.wait_for(listed.wait(), LIST_SECONDS)

    async def _follow(self, namespace: str, route: Route, listed: asyncio.Event) -> None:
        def update(found: set[str]) -> None:
            route.balancer.update(found)
            listed.set()
            if self.current:
                self.current.settle()

        if fixed := os.environ.get(ENV_REPLICAS):
            update({address.strip() for address in fixed.split(",")})
            return
        async with self._client() as client, httpx.AsyncClient(timeout=1) as metrics:
            async with asyncio.TaskGroup() as group:
                group.create_task(endpoints.watch(client, namespace, route.version.service, update))
                group.create_task(load.follow(metrics, route.balancer))

    async def _watch_config(self, config: GatewayConfig) -> None:
        def update(text: str) -> None:
            self._told = text.encode()

        async with self._client() as client:
            await endpoints.watch_config(client, config.namespace, config.config_map, update)


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
