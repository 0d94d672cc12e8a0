import io
import json

import httpx
import pytest

from anneal_evaluation.endpoint import Endpoint
from anneal_evaluation.scoring import Request
from anneal_evaluation.suites.problems import Ask
from anneal_runtime.errors import Refused, TryAgain

CHAT = Request(Ask(messages=(("user", "hello"),)), 8, 0.0, 0)
INFILL = Request(Ask(prefix="a", suffix="c", stops=("\n",)), 8, 0.5, 7)


def test_chats_and_infills_go_to_their_routes_and_come_back_in_order() -> None:
    seen: list[tuple[str, dict[str, object]]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        seen.append((request.url.path, body))
        if "messages" in body:
            return httpx.Response(200, json={"choices": [{"message": {"content": "hi"}}]})
        return httpx.Response(200, json={"choices": [{"text": "b"}]})

    model = Endpoint("http://there/v1/", "m", key="k", transport=httpx.MockTransport(answer))
    assert model([CHAT, INFILL]) == ["hi", "b"]
    assert seen == [
        ("/v1/chat/completions", {"model": "m", "max_tokens": 8, "temperature": 0.0, "messages": [{"role": "user", "content": "hello"}]}),
        ("/v1/completions", {"model": "m", "max_tokens": 8, "temperature": 0.5, "seed": 7, "stop": ["\n"], "prompt": "a", "suffix": "c"}),
    ]  # fmt: skip


def test_a_busy_endpoint_is_asked_again() -> None:
    answers = iter(
        [
            httpx.Response(429, headers={"Retry-After": "0"}),
            httpx.Response(200, json={"choices": [{"text": "b"}]}),
        ]
    )
    model = Endpoint("http://there/v1", "m", transport=httpx.MockTransport(lambda _: next(answers)))
    assert model([INFILL]) == ["b"]


def test_what_it_refuses_is_told() -> None:
    refusing = httpx.MockTransport(lambda _: httpx.Response(404, text="no model m"))
    with pytest.raises(Refused, match="404: no model m"):
        Endpoint("http://there/v1", "m", transport=refusing)([CHAT])

    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(TryAgain, match="refused"):
        Endpoint("http://there/v1", "m", transport=httpx.MockTransport(away))([CHAT])


@pytest.mark.parametrize("looked_at", [True, False])
def test_a_terminal_is_shown_how_many_answers_there_are(
    monkeypatch: pytest.MonkeyPatch, looked_at: bool
) -> None:
    seen = io.StringIO()
    monkeypatch.setattr(seen, "isatty", lambda: looked_at)
    monkeypatch.setattr("sys.stderr", seen)
    reply = httpx.Response(200, json={"choices": [{"text": "b"}]})
    Endpoint("http://there/v1", "m", transport=httpx.MockTransport(lambda _: reply))([INFILL, INFILL])
    assert ("2/2 [" in seen.getvalue()) is looked_at
