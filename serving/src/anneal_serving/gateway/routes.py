"""What the gateway routes to: the config file, the engine's tokenizer, the replicas. Replaced as a whole.

The operator changes the file when a version takes over. The new route is made ready beside the old
one and then swapped in; what runs on the old one ends there, what waits moves over.
"""

import asyncio
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import httpx

from anneal_api.artifacts import Manifest
from anneal_api.base import ArtifactRef
from anneal_api.runs import GatewayConfig
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

    config: GatewayConfig
    encoder: ChatEncoder
    balancer: Balancer

    @cached_property
    def vocabulary(self) -> list[bytes]:
        """What every token writes by itself."""
        return token_bytes(self.encoder.tokenizer)


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
    """Keeps the current route.

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
        self._text = b""
        self._follower: asyncio.Task[None] | None = None
        self.current: Route | None = None

    async def run(self) -> None:
        """Follow the config file for ever; while it cannot be used, the route before it stays."""
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
        """Read the config file and, when it has changed, swap in a new route."""
        text = self._path.read_bytes()
        if text == self._text:
            return
        config = GatewayConfig.model_validate_json(text)
        encoder = await asyncio.to_thread(load_encoder, config.engine, self._cache)
        await self._swap(Route(config, encoder, Balancer(config.max_batch_size, config.max_queue)))
        self._text = text

    async def close(self) -> None:
        """End the watch."""
        if self._follower is not None:
            self._follower.cancel()
            with suppress(asyncio.CancelledError):
                await self._follower

    async def _swap(self, route: Route) -> None:
        listed = asyncio.Event()
        follower = asyncio.create_task(self._follow(route, listed))
        with suppress(TimeoutError):
            await asyncio.wait_for(listed.wait(), LIST_SECONDS)
        old, self.current = self.current, route
        await self.close()
        self._follower = follower
        if old is not None:
            old.balancer.close()
        fields = {"service": route.config.service, "engine": route.config.engine.digest}
        _log.info("route", extra=fields)

    async def _follow(self, route: Route, listed: asyncio.Event) -> None:
        def update(found: set[str]) -> None:
            route.balancer.update(found)
            listed.set()

        if fixed := os.environ.get(ENV_REPLICAS):
            update({address.strip() for address in fixed.split(",")})
            return
        config = route.config
        async with self._client() as client, httpx.AsyncClient(timeout=1) as metrics:
            async with asyncio.TaskGroup() as group:
                group.create_task(endpoints.watch(client, config.namespace, config.service, update))
                group.create_task(load.follow(metrics, route.balancer))
