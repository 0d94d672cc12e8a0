"""Talks to an endpoint: the OpenAI protocol, streamed, through a port that kubectl forwards."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import httpx

from anneal_cli.kubectl import Object
from anneal_runtime.errors import Refused, TryAgain

Message = dict[str, str]
PORT = 80
"""Of a gateway's Service, which is called as its ModelDeployment."""
TIMEOUT = httpx.Timeout(10.0, read=600.0)


def service_of(resource: Object) -> str:
    """Return the Service of a ModelDeployment that serves.

    Raises:
        Refused: it is none, or serves nothing yet.
    """
    name = str(resource["metadata"]["name"])
    if resource["kind"] != "ModelDeployment":
        raise Refused("NotServed", f"{name} is a FineTuneJob; name the ModelDeployment that serves it")
    if not resource.get("status", {}).get("url"):
        raise Refused(
            "NotServing", f"{name} serves no version yet; `anneal why {name}` says what it waits for"
        )
    return name


def request(model: str, messages: list[Message], max_tokens: int) -> dict[str, Any]:
    """Return the body of a streamed chat completion."""
    return {"model": model, "messages": messages, "max_tokens": max_tokens, "stream": True}


def pieces(lines: Iterable[str]) -> Iterator[str]:
    """Yield the text in the server-sent events of a chat completion, as it comes."""
    for line in lines:
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data == "[DONE]":
            continue
        said = json.loads(data)
        if "error" in said:
            raise TryAgain("EndpointFailed", str(said["error"].get("message", said["error"])))
        for choice in said["choices"]:
            if text := choice.get("delta", {}).get("content"):
                yield text


def answer(address: str, key: str | None, body: dict[str, Any]) -> Iterator[str]:
    """Yield the answer of an endpoint piece by piece.

    Raises:
        Refused: the endpoint takes no such request, in its own words.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=address, headers=headers, timeout=TIMEOUT, trust_env=False) as client:
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                raise Refused(
                    "RequestRefused", f"{response.status_code}: {response.read().decode(errors='replace')}"
                )
            yield from pieces(response.iter_lines())
