"""Streams of completions, so many at once, all asked for by one HTTP client, so that its cost is the same for everyone:
`python -m serve.load URL openai MODEL EXTRA` asks an OpenAI endpoint (EXTRA: fields of the request beyond OpenAI's, as JSON),
`python -m serve.load URL triton` a replica itself, by Triton's generate extension.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from anneal_serving.triton import tensors
from serve.measure import Answer, Job, run_jobs

Ask = Callable[[list[int], int, Callable[[], None]], Awaitable[int]]
"""Asks for so many tokens after a prompt, tells whenever some have come, and returns how many came in all."""
SECONDS = 600.0


@dataclass(frozen=True)
class Dialect:
    """How a server is asked for so many tokens after a prompt, and what its events tell."""

    path: str
    body: Callable[[list[int], int], dict[str, Any]]
    some: Callable[[dict[str, Any]], bool]
    """Whether an event brings tokens."""
    count: Callable[[dict[str, Any]], int]
    """Tokens that an event counts."""


def openai(model: str, extra: dict[str, Any]) -> Dialect:
    """Return the dialect of an OpenAI endpoint, which counts all tokens at the end."""
    fixed = {"model": model, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    return Dialect(
        path="/v1/completions",
        body=lambda prompt, tokens: {**fixed, **extra, "prompt": prompt, "max_tokens": tokens},
        some=lambda event: any(choice["text"] for choice in event.get("choices", ())),
        count=lambda event: int((event.get("usage") or {}).get("completion_tokens", 0)),
    )


def triton() -> Dialect:
    """Return the dialect of a replica; the engine's own end tokens end an answer."""

    def body(prompt: list[int], tokens: int) -> dict[str, Any]:
        values = {
            tensors.INPUT_IDS: prompt,
            tensors.INPUT_LENGTHS: len(prompt),
            tensors.OUTPUT_LENGTH: tokens,
            tensors.TOP_K: 1,
            tensors.STREAMING: True,
        }
        return {tensor.name: value for tensor, value in values.items()}

    def count(event: dict[str, Any]) -> int:
        return int(event.get(tensors.SEQUENCE_LENGTH.name, 0))

    return Dialect(f"/v2/models/{tensors.MODEL}/generate_stream", body, lambda event: count(event) > 0, count)


def asker(url: str, dialect: Dialect) -> Ask:
    """Return the client of a server."""
    # A connection for each request, as new clients have: a server may be closing one that is kept.
    client = httpx.AsyncClient(
        base_url=url, timeout=SECONDS, limits=httpx.Limits(max_keepalive_connections=0)
    )

    async def ask(prompt: list[int], tokens: int, came: Callable[[], None]) -> int:
        count = 0
        async with client.stream("POST", dialect.path, json=dialect.body(prompt, tokens)) as answer:
            if answer.status_code != 200:
                raise SystemExit(f"{url}: {answer.status_code} {(await answer.aread()).decode()[:500]}")
            async for line in answer.aiter_lines():
                event = json.loads(line.removeprefix("data: ")) if line.startswith("data: {") else {}
                if dialect.some(event):
                    came()
                count += dialect.count(event)
        return count

    return ask


async def answers(ask: Ask, job: Job) -> list[Answer]:
    """Ask for all answers of a job."""
    made: list[Answer] = []

    async def stream(prompts: Iterator[list[int]]) -> None:
        for prompt in prompts:
            times, sent = list[float](), time.perf_counter()
            count = await ask(prompt, job.tokens, lambda times=times: times.append(time.perf_counter()))
            made.append(Answer(sent, times, count))

    todo = iter(job.prompts)
    await asyncio.gather(*(stream(todo) for _ in range(job.streams)))
    return made


def main() -> None:
    """Be the driver that the arguments name."""
    url, kind, *rest = sys.argv[1:]
    ask = asker(url, triton() if kind == "triton" else openai(rest[0], json.loads(rest[1])))
    with asyncio.Runner() as runner:
        run_jobs(lambda job: runner.run(answers(ask, job)))


if __name__ == "__main__":
    main()
