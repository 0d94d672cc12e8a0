"""Streams of chat completions without a pause and without a retry; runs in a pod, until its input ends.

Arguments: URL of the endpoint, model, streams at once, tokens of an answer. A line of JSON when a stream is asked for, at its first
token and at its end: `error` is empty, or what went wrong with it; times are Unix seconds.
"""

import asyncio
import itertools
import json
import sys
import time

import httpx

URL, MODEL, STREAMS, TOKENS = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])


def say(**fields: object) -> None:
    """Print a line."""
    print(json.dumps(fields), flush=True)


async def stream(number: int) -> str:
    """Read one answer to its end; return what was wrong with it. Each has a connection of its own, as new clients do."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"repeat {number} abcdef"}],
        "stream": True,
        "temperature": 0,
        "max_tokens": TOKENS,
    }
    finish, first = None, False
    async with httpx.AsyncClient(timeout=httpx.Timeout(10, read=300)) as client:
        async with client.stream("POST", f"{URL}/v1/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                return f"{answer.status_code}: {(await answer.aread()).decode()}"
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    return f"event: {event['error']['message']}"
                if not first:
                    first = True
                    say(stream=number, first=time.time())
                finish = event["choices"][0]["finish_reason"] or finish
    return "" if finish == "length" else f"cut: {finish}"


async def worker(numbers: "itertools.count[int]", stop: asyncio.Event) -> None:
    """Read one answer after the other."""
    while not stop.is_set():
        number = next(numbers)
        say(stream=number, asked=time.time())
        try:
            error = await stream(number)
        except httpx.HTTPError as failure:
            error = f"broken: {failure!r}"
        say(stream=number, ended=time.time(), error=error)


async def main() -> None:
    """Run until the input ends; what runs then is read to its end."""
    stop, numbers = asyncio.Event(), itertools.count()
    workers = [asyncio.create_task(worker(numbers, stop)) for _ in range(STREAMS)]
    await asyncio.to_thread(sys.stdin.read)
    stop.set()
    await asyncio.gather(*workers)


asyncio.run(main())
