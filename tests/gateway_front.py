"""A gateway in this process, in front of replicas that say what a test wrote down."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette

from anneal_api.base import ArtifactRef
from anneal_api.runs import GatewayVersion
from anneal_runtime.chat import ChatEncoder
from anneal_serving.gateway.replicas import Job, Step
from anneal_serving.gateway.routes import Route, Router

ADDRESSES = {"10.0.0.1:8001", "10.0.0.2:8001"}


def version_of(name: str = "a", weight: int = 100, **fields: Any) -> GatewayVersion:
    """Return a version for the tiny model."""
    limits = {"max_batch_size": 4, "max_input_length": 200, "max_sequence_length": 256} | fields
    engine = ArtifactRef(uri="file:///nowhere", digest=f"sha256:{name}")
    return GatewayVersion(name=name, weight=weight, service=f"replicas-{name}", engine=engine, **limits)


@dataclass
class Script:
    """A source of tokens: `steps` for every request, or what `raises` says after `before` of them."""

    steps: list[Step]
    raises: list[Exception] = field(default_factory=list)
    before: int = 0
    jobs: list[Job] = field(default_factory=list)

    async def stream(self, address: str, job: Job, timeout: float) -> AsyncGenerator[Step, None]:
        """Yield the script."""
        self.jobs.append(job)
        error = self.raises.pop(0) if self.raises else None
        for step in self.steps[: self.before] if error else self.steps:
            yield step
        if error:
            raise error


class Echo:
    """A source that says the prompt again, token by token, while others say theirs."""

    async def stream(self, address: str, job: Job, timeout: float) -> AsyncGenerator[Step, None]:
        """Yield the prompt's tokens."""
        for token in job.ids:
            await asyncio.sleep(0)
            yield Step([token], [-1.0])


@dataclass
class Front:
    """A gateway and what stands around it."""

    script: Script
    router: Router
    keys: Path
    encoder: ChatEncoder
    app: Starlette

    def configure(self, **fields: Any) -> None:
        """Change the gateway's config."""
        assert self.router.current is not None
        before = self.router.current
        self.router.current = replace(before, config=before.config.model_copy(update=fields))

    def route(self, version: GatewayVersion, encoder: ChatEncoder | None = None) -> None:
        """Put a version in the place of the only one."""
        assert self.router.current is not None
        before = self.router.current
        route = Route(version, encoder or self.encoder, before.routes[0].balancer)
        self.router.current = replace(before, routes=[route])

    async def post(self, path: str, key: str = "", **body: Any) -> httpx.Response:
        """Send a request of the tiny model."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://gateway"
        ) as client:
            return await client.post(f"/v1/{path}", json={"model": "tiny"} | body, headers=headers)

    async def chat(self, text: str = "hello", key: str = "", **fields: Any) -> httpx.Response:
        """Send a chat of one turn."""
        messages = [{"role": "user", "content": text}]
        return await self.post("chat/completions", key, messages=messages, **fields)
