"""OpenAI's requests: what is asked for, and refusals that name the field."""

import json
from typing import Any

import pytest

from anneal_serving.gateway import requests
from anneal_serving.gateway.errors import ApiError

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def chat(**fields: Any) -> requests.Ask:
    return requests.parse_chat(json.dumps(CHAT | fields).encode())


def completion(**fields: Any) -> requests.Ask:
    return requests.parse_completion(json.dumps({"model": "m", "prompt": "x"} | fields).encode())


def test_defaults_are_openais() -> None:
    ask = chat()
    assert (ask.temperature, ask.top_p, ask.max_tokens, ask.stops, ask.stream) == (1.0, 1.0, None, [], False)
    assert completion().max_tokens == 16


def test_content_parts_are_joined_and_developer_is_system() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    ask = chat(messages=[{"role": "developer", "content": "s"}, {"role": "user", "content": parts}])
    assert ask.chat == [{"role": "system", "content": "s"}, {"role": "user", "content": "ab"}]


def test_max_completion_tokens_wins() -> None:
    assert chat(max_tokens=5, max_completion_tokens=7).max_tokens == 7


def test_one_stop_string_or_several() -> None:
    assert chat(stop="a").stops == ["a"]
    assert chat(stop=["a", "b"]).stops == ["a", "b"]


def test_a_seed_is_kept_and_a_missing_one_is_drawn() -> None:
    assert chat(seed=3).seed == 3
    assert chat(seed=-1).seed >= 0
    assert len({chat().seed for _ in range(8)}) > 1


def test_prompt_as_text_ids_or_a_list_of_one() -> None:
    assert completion(prompt=["t"]).prompt == "t"
    assert completion(prompt=[1, 2]).prompt == [1, 2]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"logprobs": 3}, "logprobs"),
        ({"tools": [{}]}, "tools"),
        ({"logit_bias": {"1": 2.0}}, "logit_bias"),
    ],
)
def test_a_refusal_names_the_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        chat(**fields)
    error = caught.value
    assert (error.status, error.kind, error.param) == (400, "invalid_request_error", param)
    assert error.message.startswith(f"{param}: ")


@pytest.mark.parametrize("prompt", ["", [], ["a", "b"]])
def test_a_prompt_that_is_none_is_refused(prompt: Any) -> None:
    with pytest.raises(ApiError) as caught:
        completion(prompt=prompt)
    assert caught.value.param == "prompt"


def test_a_body_that_is_not_json_is_refused() -> None:
    with pytest.raises(ApiError, match="not JSON"):
        requests.parse_chat(b"{")


def test_a_refusal_never_repeats_the_prompt() -> None:
    with pytest.raises(ApiError) as caught:
        chat(messages=[{"role": "user", "content": {"secret": "words"}}])
    assert "secret" not in str(caught.value.body)
    assert "words" not in str(caught.value.body)


def test_the_error_body_is_openais() -> None:
    error = ApiError(429, "full", code="queue_full", retry_after=3)
    expected = {"message": "full", "type": "rate_limit_error", "param": None, "code": "queue_full"}
    assert error.body == {"error": expected}
    assert error.headers == {"Retry-After": "3"}
