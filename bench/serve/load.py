"""Streams of completions, so many at once: `python -m serve.load http URL MODEL EXTRA` asks an OpenAI endpoint (EXTRA: fields
of the request beyond OpenAI's, as JSON), `python -m serve.load triton ADDRESS ENDS` a replica, through the gateway's own client.
"""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx

from anneal_serving.gateway import replicas, requests
from anneal_serving.gateway.replicas import Replicas
from serve.measure import Answer, Job, run_jobs

Ask = Callable[[list[int], int, Callable[[], None]], Awaitable[int]]
"""Asks for so many tokens after a prompt, tells whenever some have come, and returns how many came in all."""
SECONDS = 600.0


def over_http(url: str, model: str, extra: dict[str, Any]) -> Ask:
    """Return the client of an OpenAI endpoint."""
    # A connection for each request, as new clients have: a server may be closing one that is kept.
    client = httpx.AsyncClient(
        base_url=url, timeout=SECONDS, limits=httpx.Limits(max_keepalive_connections=0)
    )

    async def ask(prompt: list[int], tokens: int, came: Callable[[], None]) -> int:
        body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True}
        body |= {"stream_options": {"include_usage": True}, **extra}
        count = 0
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                raise SystemExit(f"{url}: {answer.status_code} {(await answer.aread()).decode()[:500]}")
            async for line in answer.aiter_lines():
                event = json.loads(line.removeprefix("data: ")) if line.startswith("data: {") else {}
                if any(choice["text"] for choice in event.get("choices", ())):
                    came()
                if event.get("usage"):
                    count = int(event["usage"]["completion_tokens"])
        return count

    return ask


def over_grpc(address: str, ends: list[int]) -> Ask:
    """Return the client of a replica."""
    client = Replicas(lambda: [address])
    numbers = itertools.count()

    async def ask(prompt: list[int], tokens: int, came: Callable[[], None]) -> int:
        body = {"model": "", "prompt": prompt, "max_tokens": tokens, "temperature": 0}
        asked = requests.parse_completion(json.dumps(body).encode())
        job = replicas.Job(f"bench-{next(numbers)}", prompt, tokens, ends, asked)
        count = 0
        async for step in client.stream(address, job, SECONDS):
            if step.ids:
                came()
                count += len(step.ids)
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
    kind, where, *rest = sys.argv[1:]
    ask = (
        over_http(where, rest[0], json.loads(rest[1]))
        if kind == "http"
        else over_grpc(where, json.loads(rest[0]))
    )
    with asyncio.Runner() as runner:
        run_jobs(lambda job: runner.run(answers(ask, job)))


if __name__ == "__main__":
    main()
