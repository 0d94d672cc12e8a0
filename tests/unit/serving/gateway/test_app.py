"""The HTTP API in one process: keys, formats of answers, what is kept, what is refused."""

import asyncio
import json
import logging
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from tests.gateway_front import Echo, Front, version_of

from anneal_runtime.chat import ChatEncoder
from anneal_serving.gateway import generation
from anneal_serving.gateway.app import Gateway
from anneal_serving.gateway.balancer import Balancer
from anneal_serving.gateway.keys import Keys
from anneal_serving.gateway.replicas import Failed, InvalidGuide, Step, Unavailable
from anneal_serving.gateway.requests import Ask
from anneal_serving.gateway.routes import Route, Routes


def text_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def error_of(response: httpx.Response) -> dict[str, Any]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


async def test_without_keys_everybody_may_ask(front: Front) -> None:
    assert text_of(await front.chat()) == "def f"


async def test_with_keys_only_their_holders_may(front: Front) -> None:
    front.configure(api_keys=True)
    (front.keys / "alice").write_text("sk-alice")
    assert text_of(await front.chat(key="sk-alice")) == "def f"
    refused = await front.chat(key="sk-bob")
    assert (refused.status_code, error_of(refused)["code"]) == (401, "invalid_api_key")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(front.app), base_url="http://g") as client:
        assert (await client.get("/v1/models")).status_code == 401
        assert (await client.get("/v1/models", headers={"Authorization": "Bearer sk-alice"})).is_success
        assert all([(await client.get(path)).is_success for path in ("/healthz", "/readyz", "/metrics")])
    assert len(front.script.jobs) == 1


async def test_a_keys_limits_end_in_429(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    front.configure(api_keys=True)
    (front.keys / "bob").write_text('{"key": "sk-bob", "requestsPerMinute": 1}')
    with caplog.at_level(logging.INFO, "anneal.gateway"):
        assert (await front.chat(key="sk-bob")).is_success
        refused = await front.chat(key="sk-bob")
    assert (refused.status_code, error_of(refused)["code"]) == (429, "rate_limit_exceeded")
    assert int(refused.headers["Retry-After"]) >= 1
    records = [vars(record) for record in caplog.records]
    assert [record["client"] for record in records] == ["bob", "bob"]
    assert "sk-bob" not in str(records)


async def test_tokens_are_counted_for_each_client(front: Front) -> None:
    await front.chat()
    front.configure(api_keys=True)
    for client in ("alice", "bob"):
        (front.keys / client).write_text(f"sk-{client}")
    for client in ("alice", "bob", "bob"):
        assert (await front.chat(key=f"sk-{client}")).is_success
    assert (await front.chat(key="sk-nobody")).status_code == 401
    answered = len(front.script.steps)
    found = {
        s.labels["client"]: s.value
        for s in await samples(front, "anneal_gateway_tokens_total", kind="completion")
    }
    assert found == {"": answered, "alice": answered, "bob": 2 * answered}


async def test_answers_are_kept_only_when_asked_for(front: Front) -> None:
    for _ in range(2):
        await front.chat(temperature=0)
    assert len(front.script.jobs) == 2


async def test_a_repeated_deterministic_request_is_answered_from_memory(front: Front) -> None:
    front.configure(cache=True)
    first = await front.chat(temperature=0)
    again = await front.chat(temperature=0)
    assert text_of(again) == text_of(first)
    assert again.json()["usage"] == first.json()["usage"]
    stream = events_of(await front.chat(temperature=0, stream=True))
    assert "".join(part["choices"][0]["delta"].get("content", "") for part in stream) == "def f"
    assert len(front.script.jobs) == 1


@pytest.mark.parametrize(
    "fields", [{}, {"temperature": 0, "text": "other"}, {"temperature": 0, "max_tokens": 3}, {"seed": 4}]
)
async def test_another_request_is_not(front: Front, fields: dict[str, Any]) -> None:
    front.configure(cache=True)
    await front.chat(temperature=0)
    await front.chat(**fields)
    assert len(front.script.jobs) == 2


async def test_no_client_gets_anothers_answer(front: Front) -> None:
    front.configure(cache=True, api_keys=True)
    for name in ("alice", "bob"):
        (front.keys / name).write_text(f"sk-{name}")
    for key in ("sk-alice", "sk-bob", "sk-alice"):
        assert (await front.chat(key=key, temperature=0)).is_success
    assert len(front.script.jobs) == 2


async def test_an_answer_that_broke_off_is_not_kept(front: Front) -> None:
    front.configure(cache=True)
    front.script.raises, front.script.before = [Unavailable("gone")], 1
    assert (await front.chat(temperature=0)).status_code == 502
    assert text_of(await front.chat(temperature=0)) == "def f"


async def test_a_replica_is_changed_only_before_the_first_token(front: Front) -> None:
    front.script.raises = [Unavailable("gone")]
    assert text_of(await front.chat()) == "def f"
    front.script.raises, front.script.before = [Unavailable("gone")], 1
    events = events_of(await front.chat(stream=True))
    assert events[-1]["error"]["type"] == "server_error"
    assert len(front.script.jobs) == 3


async def test_an_engine_that_refuses_is_not_the_clients_fault(front: Front) -> None:
    front.script.raises = [Failed("no")]
    assert (await front.chat()).status_code == 500


async def test_an_answer_that_takes_too_long_is_504(front: Front) -> None:
    front.script.raises = [TimeoutError()]
    refused = await front.chat()
    assert refused.status_code == 504
    assert "requestTimeoutSeconds" in error_of(refused)["message"]


async def test_another_model_is_404(front: Front) -> None:
    refused = await front.chat(model="other")
    assert (refused.status_code, error_of(refused)["code"]) == (404, "model_not_found")
    assert "'tiny'" in error_of(refused)["message"]


async def test_a_body_beyond_the_limit_is_413(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anneal_serving.gateway.http.BODY_LIMIT", 1000)
    assert (await front.chat("x" * 100)).status_code == 200
    refused = await front.chat("x" * 1000)
    assert refused.status_code == 413
    assert error_of(refused)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/embeddings", 404), ("GET", "/v1/completions", 405)]
)
async def test_what_is_not_served_is_said_in_openais_shape(
    front: Front, method: str, path: str, status: int
) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(front.app), base_url="http://g") as client:
        refused = await client.request(method, path)
    assert refused.status_code == status
    assert "/openapi.json" in error_of(refused)["message"]


async def test_without_a_route_the_client_is_asked_to_come_again(front: Front) -> None:
    front.router.current = None
    refused = await front.chat()
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert error_of(refused)["code"] == "not_ready"


@pytest.mark.parametrize("length", [10, 2000])
async def test_a_long_prompt_is_encoded_beside_the_loop(
    front: Front, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    front.route(version_of(max_input_length=4096, max_sequence_length=8192))
    threads = []

    def noted(ask: Ask, route: Route) -> generation.Encoded:
        threads.append(threading.current_thread() is threading.main_thread())
        return encode(ask, route)

    encode = generation.encode
    monkeypatch.setattr(generation, "encode", noted)
    assert text_of(await front.chat("x " * (length // 2))) == "def f"
    assert threads == [length < generation.SHORT]


async def test_usage_comes_last_when_asked_for(front: Front) -> None:
    events = events_of(await front.chat(stream=True, stream_options={"include_usage": True}))
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == len(front.script.steps)
    assert all("usage" not in event for event in events[:-1])


async def test_logprobs_of_a_chat(front: Front) -> None:
    choice = (await front.chat(logprobs=True)).json()["choices"][0]
    tokens = choice["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == "def f"
    assert {token["logprob"] for token in tokens} == {-0.5}
    assert bytes(byte for token in tokens for byte in token["bytes"]) == b"def f"
    assert (await front.chat()).json()["choices"][0]["logprobs"] is None
    assert front.script.jobs[0].ask.logprobs


async def test_logprobs_of_a_stream_and_of_a_completion(front: Front) -> None:
    parts = [
        event["choices"][0]["logprobs"] for event in events_of(await front.chat(logprobs=True, stream=True))
    ]
    assert "".join(token["token"] for part in parts for token in part["content"]) == "def f"
    answer = await front.post("completions", prompt="x", logprobs=0)
    found = answer.json()["choices"][0]["logprobs"]
    assert "".join(found["tokens"]) == "def f"
    assert found["token_logprobs"] == [-0.5] * len(found["tokens"])


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": "x"}], "top_logprobs": 2},
            "top_logprobs",
        ),
        ("completions", {"prompt": "x", "logprobs": 2}, "logprobs"),
        ("completions", {"prompt": [5], "suffix": "y"}, "suffix"),
        ("completions", {"prompt": "x", "suffix": "y"}, "suffix"),
    ],
)
async def test_what_the_engine_lacks_is_refused(
    front: Front, path: str, fields: dict[str, Any], param: str
) -> None:
    refused = await front.post(path, **fields)
    assert (refused.status_code, error_of(refused)["param"]) == (400, param)


async def test_a_suffix_becomes_the_familys_prompt(front: Front) -> None:
    wider = front.encoder.with_tokens(["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"])
    front.route(version_of(), wider)
    assert text_of(await front.post("completions", prompt="a = <|im_end|>", suffix="\nb")) == "def f"
    job = front.script.jobs[0]
    shown = wider.tokenizer.decode(job.ids, skip_special_tokens=False)
    assert shown == "<|fim_prefix|>a = <|im_end|><|fim_suffix|>\nb<|fim_middle|>"
    assert front.encoder.eos_ids[0] not in job.ids, "a text spells no special token"
    assert set(front.encoder.eos_ids) <= set(job.eos_ids)


SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}


@pytest.mark.parametrize(
    ("wanted", "kind", "text"),
    [
        ({"type": "json_object"}, "json", ""),
        (SCHEMA, "json_schema", '{"type": "object"}'),
        ({"type": "regex", "regex": "[a-z]{2}"}, "regex", "[a-z]{2}"),
        ({"type": "grammar", "grammar": 'root ::= "x"'}, "ebnf_grammar", 'root ::= "x"'),
    ],
)
async def test_a_format_reaches_the_engine(front: Front, wanted: Any, kind: str, text: str) -> None:
    assert (await front.chat(response_format=wanted)).is_success
    guide = front.script.jobs[0].ask.guide
    assert guide is not None
    assert (guide.kind, guide.text) == (kind, text)
    await front.chat(response_format={"type": "text"})
    assert front.script.jobs[1].ask.guide is None


async def test_a_format_the_engine_cannot_compile_is_400(front: Front) -> None:
    front.script.raises = [InvalidGuide("Unclosed '['")]
    refused = await front.chat(response_format={"type": "regex", "regex": "[a"})
    assert refused.status_code == 400
    assert error_of(refused)["message"] == "response_format: Unclosed '['"


async def test_formats_and_logprobs_need_the_cpu_runtime(front: Front) -> None:
    front.route(version_of(runtime="tensorrt-llm-engine"))
    refused = await front.chat(response_format={"type": "json_object"})
    assert "engine.runtime tensorrt-llm-engine" in error_of(refused)["message"]
    assert (await front.chat(logprobs=True)).status_code == 400
    assert (await front.chat()).is_success


async def test_nobody_gets_anothers_text(front: Front, tmp_path: Path) -> None:
    """More requests than slots, streamed and not, from memory and not; some clients go while they are answered."""
    front.configure(cache=True)
    front.app = Gateway(front.router, Keys(tmp_path), Echo()).app()

    async def ask(number: int) -> None:
        text = f"secret number {number % 20} of somebody"
        fields = {"prompt": text, "max_tokens": 60, "temperature": 0, "stream": number % 2 == 0}
        work = asyncio.create_task(front.post("completions", **fields))
        if number % 7 == 0:
            await asyncio.sleep(0.01)
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            return
        answer = await work
        parts = events_of(answer) if number % 2 == 0 else [answer.json()]
        assert "".join(part["choices"][0]["text"] for part in parts) == text

    await asyncio.gather(*(ask(number) for number in range(16)))
    await asyncio.gather(*(ask(number) for number in range(16, 32)))
    assert front.router.current is not None
    assert front.router.current.routes[0].balancer.waiting == 0


GOOD = st.fixed_dictionaries(
    {"stream": st.booleans()},
    optional={
        "temperature": st.floats(0, 2),
        "max_tokens": st.integers(1, 60),
        "seed": st.integers(0, 3),
        "stop": st.lists(st.text(min_size=1, max_size=3), max_size=3),
        "stream_options": st.just({"include_usage": True}),
    },
)
NAMES = (
    "temperature",
    "max_tokens",
    "stop",
    "logprobs",
    "top_p",
    "suffix",
    "response_format",
    "stream",
    "nonsense",
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2**33),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from([[], {}, {"type": "json_object"}, {"type": "regex", "regex": "[a"}]),
)
FIELDS = GOOD | st.builds(
    lambda good, name, value: good | {name: value}, GOOD, st.sampled_from(NAMES), VALUES
)
FUZZ = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def test_made_up_requests_are_no_500_and_show_nobody_elses_text(front: Front, tmp_path: Path) -> None:
    """Several at once, each with a text of its own, over slots, queue, memory and keys that they share."""
    for name in ("alice", "bob"):
        (front.keys / name).write_text(f"sk-{name}")
    front.app = Gateway(front.router, Keys(front.keys), Echo()).app()
    seen = Counter[int]()

    async def ask(number: int, fields: dict[str, Any]) -> tuple[int, str]:
        path = ("completions", "chat/completions")[number % 2]
        text = own(number)
        prompt = {"prompt": text} if number % 2 == 0 else {"messages": [{"role": "user", "content": text}]}
        answer = await front.post(path, key=f"sk-{('alice', 'bob')[number // 2 % 2]}", **prompt, **fields)
        return answer.status_code, answer.text

    @FUZZ
    @given(st.lists(FIELDS, min_size=2, max_size=8))
    def fuzz(made: list[dict[str, Any]]) -> None:
        front.configure(cache=True, api_keys=True)

        async def all_at_once() -> list[tuple[int, str]]:
            return await asyncio.gather(*(ask(number, fields) for number, fields in enumerate(made)))

        for number, (status, text) in enumerate(asyncio.run(all_at_once())):
            seen[status] += 1
            assert status < 500, text
            others = [other for other in range(len(made)) if other != number and own(other) in shown(text)]
            assert not others, f"{number} was shown the text of {others}: {text}"

    fuzz()
    assert seen[200] > 20 < seen[400], seen


def own(number: int) -> str:
    return f"secret {number} of somebody"


def shown(text: str) -> str:
    """Return what a client reads: of a stream its parts joined, else the body as it is."""
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    choices = [choice for event in events for choice in event.get("choices", ())]
    return (
        "".join(choice.get("text") or choice.get("delta", {}).get("content", "") for choice in choices)
        or text
    )


async def test_an_id_that_would_break_a_log_is_replaced(front: Front) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(front.app), base_url="http://g") as client:
        given = {"X-Request-Id": "a b"}
        answer = await client.post("/v1/completions", json={"model": "tiny", "prompt": "x"}, headers=given)
    assert len(answer.headers["X-Request-Id"]) == 32


async def test_a_half_character_is_one_token_of_bytes(front: Front, encoder: ChatEncoder) -> None:
    ids = encoder.tokenizer.encode("é").ids
    front.script.steps = [Step([token], [-1.0]) for token in [*ids, encoder.eos_ids[0]]]
    answer = await front.chat(logprobs=True)
    assert text_of(answer) == "é"
    tokens = answer.json()["choices"][0]["logprobs"]["content"]
    assert bytes(byte for token in tokens for byte in token["bytes"]) == "é".encode()


async def test_what_each_version_does_is_counted_for_the_step_of_a_rollout(front: Front) -> None:
    """Failures of a replica count though the client gets its answer; what a client does wrong does not."""
    assert front.router.current is not None
    route = front.router.current.routes[0]
    canary = replace(route, version=version_of("b", 0), balancer=Balancer(4, 8))
    canary.balancer.update({"10.0.0.9:8001"})
    config = front.router.current.config.model_copy(
        update={"trial": "t", "versions": [route.version, canary.version]}
    )
    front.router.current = Routes(config, [route, canary])
    front.router.changed(config)
    front.script.raises = [Unavailable("gone")]
    assert text_of(await front.chat()) == "def f"
    assert (await front.chat(text="x" * 2000)).status_code == 400
    front.script.raises = [InvalidGuide("no")]
    assert (await front.chat()).status_code == 400
    assert await counts(front) == {("a", "failed"): 1, ("a", "ok"): 0, ("b", "failed"): 0, ("b", "ok"): 1}
    front.router.changed(config.model_copy(update={"trial": "next"}))
    assert set((await counts(front)).values()) == {0}


async def counts(front: Front) -> dict[tuple[str, str], float]:
    found = await samples(front, "anneal_version_requests_total")
    return {(s.labels["version"], s.labels["outcome"]): s.value for s in found}


async def samples(front: Front, name: str, **labels: str) -> list[Sample]:
    """Return what the gateway tells of a metric."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(front.app), base_url="http://g") as client:
        text = (await client.get("/metrics")).text
    found = [s for family in text_string_to_metric_families(text) for s in family.samples if s.name == name]
    return [s for s in found if labels.items() <= s.labels.items()]
