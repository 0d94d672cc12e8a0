"""Answers from any endpoint that speaks the OpenAI HTTP API, so that what is scored is what is served."""

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
from tqdm import tqdm

from anneal_evaluation.scoring import Request
from anneal_runtime.errors import Refused, TryAgain

_BUSY = (429, 502, 503, 504)
_TRIES = 6
_LONGEST_WAIT = 60.0


class Endpoint:
    """A model behind a base URL such as http://host/v1; asks for `at_once` answers at a time."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str = "",
        at_once: int = 8,
        seconds: float = 600.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url, self._model, self._at_once = url.rstrip("/"), model, at_once
        self._client = {
            "headers": {"Authorization": f"Bearer {key}"} if key else {},
            "timeout": seconds,
            "transport": transport,
        }

    def __call__(self, requests: Sequence[Request]) -> list[str]:
        """Return the answers in the order of the requests.

        Raises:
            Refused: the endpoint will not answer such a request.
            TryAgain: it is not there, or stays busy.
        """
        return asyncio.run(self._all(requests))

    async def _all(self, requests: Sequence[Request]) -> list[str]:
        turn = asyncio.Semaphore(self._at_once)
        bar = tqdm(total=len(requests), desc=self._model, unit=" answers", disable=None)
        async with httpx.AsyncClient(**self._client) as client:  # type: ignore[arg-type]

            async def one(request: Request) -> str:
                async with turn:
                    answer = await self._answer(client, request)
                bar.update()
                return answer

            with bar:
                return list(await asyncio.gather(*map(one, requests)))

    async def _answer(self, client: httpx.AsyncClient, request: Request) -> str:
        path, body = _put(self._model, request)
        for turn in range(_TRIES):
            try:
                response = await client.post(f"{self._url}/{path}", json=body)
            except httpx.TransportError as error:
                raise TryAgain("EndpointAway", f"{self._url}: {error or type(error).__name__}") from error
            if response.status_code not in _BUSY:
                return _text(self._url, response)
            await asyncio.sleep(_wait(response, turn))
        raise TryAgain("EndpointBusy", f"{self._url} answered {response.status_code} {_TRIES} times")


def _put(model: str, request: Request) -> tuple[str, dict[str, Any]]:
    ask = request.ask
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
    }
    body |= {"seed": request.seed} if request.temperature else {}
    body |= {"stop": list(ask.stops[:4])} if ask.stops else {}  # the API takes four
    if ask.messages:
        return "chat/completions", body | {"messages": [{"role": r, "content": c} for r, c in ask.messages]}
    return "completions", body | {"prompt": ask.prefix} | (
        {} if ask.suffix is None else {"suffix": ask.suffix}
    )


def _text(url: str, response: httpx.Response) -> str:
    if response.status_code != 200:
        raise Refused("EndpointRefuses", f"{url} answered {response.status_code}: {response.text[:400]}")
    try:
        choice = response.json()["choices"][0]
        return str(choice["message"]["content"] if "message" in choice else choice["text"])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Refused("EndpointRefuses", f"{url} answered no completion: {response.text[:400]}") from error


def _wait(response: httpx.Response, turn: int) -> float:
    asked = response.headers.get("Retry-After", "")
    return min(_LONGEST_WAIT, float(asked) if asked.replace(".", "", 1).isdigit() else 2.0**turn)
