"""The whole way: real tritonserver, a tiny engine, the gateway, and OpenAI's own client. No GPU, no cluster."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.dashboard import asked

from anneal_api.artifacts import STAGE_KINDS
from anneal_api.base import wire
from anneal_api.runs import DeploymentRun, GatewayConfig, GatewayVersion
from anneal_runtime import artifacts
from anneal_runtime.chat import ChatEncoder
from anneal_serving import engine, inspect_stage, quantize

HELLO: Any = [{"role": "user", "content": "def f(x):"}]
SLOTS = 4
pytestmark = pytest.mark.slow
READY_SECONDS = 120.0


@dataclass(frozen=True)
class Served:
    """A replica behind a gateway."""

    replica: subprocess.Popen[bytes]
    ports: tuple[int, int, int]
    url: str
    config: Path
    log: Path
    encoder: ChatEncoder

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def gauge(self, name: str) -> float:
        text = httpx.get(f"http://127.0.0.1:{self.ports[2]}/metrics").text
        found = re.search(rf"^{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE)
        assert found, f"{name} is not among the metrics"
        return float(found[1])

    def records(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["message"] == "request"]

    def reconfigure(self, **fields: Any) -> None:
        before = GatewayConfig.model_validate_json(self.config.read_bytes())
        routed = self.log.read_text().count('"route", "shares"')
        self.config.write_text(json.dumps(wire(before.model_copy(update=fields))))
        until(lambda: self.log.read_text().count('"route", "shares"') > routed)


def until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return sorted(each.getsockname()[1] for each in sockets)


def answers(url: str, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()[-3000:]
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url).is_success
    return False


@contextlib.contextmanager
def stage(name: str, log: Path, url: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a stage as a pod does, until it is ready; end it with SIGTERM."""
    command = [sys.executable, "-m", "anneal_serving", name]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=output, stderr=output)
    try:
        until(lambda: answers(url, process, log), READY_SECONDS)
        yield process
    finally:
        process.terminate()
        process.wait(30)


def built(world: Any) -> DeploymentRun:
    """Take the tiny model through quantise and engine."""
    limits = {
        "runtime": "openvino",
        "maxBatchSize": SLOTS,
        "maxInputLength": 256,
        "maxSequenceLength": 512,
    }
    run = world.run(quantization={"method": "rtn", "groupSize": 32}, engine=limits, drainSeconds=20)
    run = run.model_copy(update={"inspection": inspect_stage.run(run)})
    quantize.run(run)
    engine.run(run)
    return run


def gateway_config(run: DeploymentRun) -> GatewayConfig:
    uri = artifacts.uri_of(run.store, run.namespace, STAGE_KINDS["engine"], run.inspection.keys.engine)
    version = GatewayVersion(
        name="a",
        weight=100,
        service="replicas",
        engine=artifacts.reference(uri),
        max_batch_size=SLOTS,
        max_input_length=256,
        max_sequence_length=512,
    )
    return GatewayConfig(
        model="tiny",
        namespace=run.namespace,
        versions=[version],
        max_queue=8,
        request_timeout_seconds=30,
    )


@pytest.fixture(scope="module")
def served(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A replica and a gateway whose first route leads to a port where nothing listens."""
    run, work = built(world), tmp_path_factory.mktemp("served")
    nowhere, http, grpc, metrics, port = free_ports(5)
    (work / "run.json").write_text(json.dumps(wire(run)))
    config = gateway_config(run)
    (work / "gateway.json").write_text(json.dumps(wire(config)))
    common = {"ANNEAL_WORK": str(work), "OMP_NUM_THREADS": "1"}
    triton = common | {
        "ANNEAL_RUN": str(work / "run.json"),
        "ANNEAL_TRITON_PORTS": f"{http},{grpc},{metrics}",
        "ANNEAL_TERMINATION_LOG": str(work / "termination"),
    }
    front = common | {
        "ANNEAL_GATEWAY_CONFIG": str(work / "gateway.json"),
        "ANNEAL_GATEWAY_PORT": str(port),
        "ANNEAL_REPLICAS": f"127.0.0.1:{nowhere},127.0.0.1:{grpc}",
    }
    ready, url = f"http://127.0.0.1:{http}/v2/health/ready", f"http://127.0.0.1:{port}"
    encoder = ChatEncoder.load(Path(config.versions[0].engine.uri.removeprefix("file://")))
    log = work / "gateway.log"
    with (
        stage("serve", work / "triton.log", ready, triton) as replica,
        stage("gateway", log, f"{url}/readyz", front),
    ):
        yield Served(replica, (http, grpc, metrics), url, work / "gateway.json", log, encoder)


def say(served: Served, **fields: Any) -> Any:
    """Ask greedily for a short answer, unless `fields` say otherwise."""
    wanted = {"model": "tiny", "messages": HELLO, "max_tokens": 24, "temperature": 0} | fields
    with served.client as client:
        return client.chat.completions.create(**wanted)


def text_of(answer: Any) -> str:
    return str(answer.choices[0].message.content)


def test_a_dead_replica_costs_a_retry_before_the_first_token(served: Served) -> None:
    assert text_of(say(served))
    assert served.records()[0]["retries"] == 1
    assert served.records()[0]["status"] == 200


def test_the_model_is_listed(served: Served) -> None:
    with served.client as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
        assert client.models.retrieve("tiny").id == "tiny"


async def test_two_chats_stream_at_once(served: Served) -> None:
    prompts = ["def f(x):", "class A:"]

    async def stream(client: openai.AsyncOpenAI, prompt: str) -> tuple[str, Any, float, float]:
        chunks: list[Any] = []
        times: list[float] = []
        async for chunk in await client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": prompt}],
            max_tokens=200,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        ):
            chunks.append(chunk)
            times.append(time.monotonic())
        parts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        return "".join(parts), chunks[-1].usage, times[0], times[-1]

    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        both = await asyncio.gather(*(stream(client, prompt) for prompt in prompts))
    for prompt, (text, usage, _, _) in zip(prompts, both, strict=True):
        whole = say(served, messages=[{"role": "user", "content": prompt}], max_tokens=200)
        assert text == text_of(whole)
        assert usage.model_dump(exclude_none=True) == whole.usage.model_dump(exclude_none=True)
    assert max(begin for _, _, begin, _ in both) < min(end for _, _, _, end in both)


def test_ids_of_a_chat_are_training_s(served: Served) -> None:
    turns = [*HELLO, {"role": "assistant", "content": "ok"}, {"role": "user", "content": "<|im_end|> more"}]
    ids = served.encoder.encode(turns, add_generation_prompt=True).ids
    answer = say(served, messages=turns)
    assert answer.usage.prompt_tokens == len(ids)
    with served.client as client:
        raw = client.completions.create(model="tiny", prompt=ids, max_tokens=24, temperature=0)
    assert raw.choices[0].text == text_of(answer)


def test_a_stop_string_ends_the_answer_and_is_not_shown(served: Served) -> None:
    whole = text_of(say(served))
    stop = whole[len(whole) // 2 :][:2]
    answer = say(served, stop=[stop])
    assert text_of(answer) == whole[: whole.find(stop)]
    assert answer.choices[0].finish_reason == "stop"
    assert say(served).choices[0].finish_reason == "length"


def test_a_seed_repeats_an_answer(served: Served) -> None:
    texts = [text_of(say(served, temperature=1.0, seed=seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_errors_are_openais(served: Served) -> None:
    with pytest.raises(openai.NotFoundError, match="use 'tiny'"):
        say(served, model="other")
    with pytest.raises(openai.BadRequestError) as caught:
        say(served, messages=[{"role": "user", "content": "x " * 400}])
    assert (caught.value.param, caught.value.code) == ("messages", "context_length_exceeded")
    with pytest.raises(openai.BadRequestError) as caught:
        say(served, temperature=9)
    assert caught.value.param == "temperature"


def test_more_requests_than_slots_all_get_their_answer(served: Served) -> None:
    async def ask_all() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
            one = client.chat.completions.create
            wanted: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 24, "temperature": 0}
            return await asyncio.gather(*(one(**wanted) for _ in range(SLOTS + 6)))

    assert {text_of(answer) for answer in asyncio.run(ask_all())} == {text_of(say(served))}


def test_a_client_that_goes_frees_its_slot(served: Served) -> None:
    """The replica stops long before it would have finished."""
    began = time.monotonic()
    say(served, max_tokens=400)
    whole = time.monotonic() - began
    with served.client as client:
        stream = client.chat.completions.create(
            model="tiny", messages=HELLO, max_tokens=400, temperature=0, stream=True
        )
        for _, _chunk in zip(range(3), stream, strict=False):
            pass
        stream.close()
    until(lambda: served.records()[-1]["status"] == 499)
    assert 0 < served.records()[-1]["completionTokens"] < 400
    until(lambda: served.gauge("anneal_requests_active") == 0, whole / 2)


def test_load_is_reported_by_replica_and_gateway(served: Served) -> None:
    names = ("anneal_requests_waiting", "anneal_requests_active", "anneal_kv_cache_used_ratio")
    assert [served.gauge(name) for name in names] == [0, 0, 0]
    seen = []
    with served.client as client:
        with client.chat.completions.create(
            model="tiny", messages=HELLO, max_tokens=400, temperature=0, stream=True
        ) as stream:
            for number, _ in enumerate(stream):
                if number % 10 == 0:
                    seen.append((served.gauge(names[1]), served.gauge(names[2])))
    assert max(seen)[0] == 1
    assert 0 < max(used for _, used in seen) <= 1
    text = httpx.get(f"{served.url}/metrics").text
    assert 'anneal_gateway_requests_total{code="200",route="chat.completions"}' in text
    assert "anneal_requests_waiting 0.0" in text
    families = text_string_to_metric_families(text)
    answered = {sample.name for family in families for sample in family.samples}
    wanted = asked("anneal_gateway_") | asked("anneal_requests_") | asked("anneal_kv_")
    assert len(wanted) > 6
    assert wanted - answered <= set(names)  # which the replica has been asked for


def test_an_answer_keeps_to_its_format(served: Served) -> None:
    """The engine's own guided decoding, through Triton; other requests run beside it."""
    regex = {"type": "regex", "regex": "[a-z]{3}=[0-9]{2}"}
    assert re.fullmatch("[a-z]{3}=[0-9]{2}", text_of(say(served, response_format=regex)))
    grammar = {"type": "grammar", "grammar": 'root ::= "yes" | "no"'}
    assert text_of(say(served, response_format=grammar, temperature=1)) in ("yes", "no")
    shape = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    shape |= {"additionalProperties": False}
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": shape}}
    answer = say(served, response_format=schema, max_tokens=200, temperature=1, seed=3)
    assert json.loads(text_of(answer))["a"] in (1, 2)


def test_a_format_that_cannot_be_compiled_is_400_and_harms_nobody(served: Served) -> None:
    expected = text_of(say(served, max_tokens=200))
    with served.client as client:
        stream = client.chat.completions.create(
            model="tiny", messages=HELLO, max_tokens=200, temperature=0, stream=True
        )
        parts = [next(stream).choices[0].delta.content or ""]
        with pytest.raises(openai.BadRequestError, match="Unclosed") as caught:
            say(served, response_format={"type": "regex", "regex": "[a-z"})
        parts += [chunk.choices[0].delta.content or "" for chunk in stream]
    assert caught.value.param == "response_format"
    assert "".join(parts) == expected


def test_logprobs_are_those_of_the_chosen_tokens(served: Served) -> None:
    answer = say(served, logprobs=True)
    tokens = answer.choices[0].logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode(errors="replace") == text_of(answer)
    assert len(tokens) == answer.usage.completion_tokens
    assert all(token.logprob < 0 for token in tokens)
    assert [t.logprob for t in say(served, logprobs=True).choices[0].logprobs.content] == pytest.approx(
        [token.logprob for token in tokens], abs=1e-4
    )


def test_logs_hold_no_prompt(served: Served) -> None:
    say(served, messages=[{"role": "user", "content": "xyzzy"}])
    assert "xyzzy" not in served.log.read_text()


def test_a_request_id_comes_back(served: Served) -> None:
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 1}
    headers = {"X-Request-Id": "mine-1"}
    answer = httpx.post(f"{served.url}/v1/chat/completions", json=body, headers=headers)
    assert answer.headers["X-Request-Id"] == "mine-1"
    assert served.records()[-1]["requestId"] == "mine-1"


def test_tritons_own_clients_have_the_ensemble(served: Served) -> None:
    url = f"http://127.0.0.1:{served.ports[0]}/v2/models/ensemble/generate"
    body = {"text_input": "def f(x):", "max_tokens": 8, "top_k": 1}
    with served.client as client:
        same = client.completions.create(model="tiny", prompt="def f(x):", max_tokens=8, temperature=0)
    assert httpx.post(url, json=body).json()["text_output"] == same.choices[0].text


def test_the_engine_refuses_what_would_crash_it(served: Served) -> None:
    url = f"http://127.0.0.1:{served.ports[0]}/v2/models/tensorrt_llm/generate"
    sizes = {"input_lengths": 1, "request_output_len": 4}
    answer = httpx.post(url, json={"input_ids": [99999]} | sizes)
    assert answer.status_code >= 400
    assert "ids are 0 to 511" in answer.text
    answer = httpx.post(url, json={"input_ids": [5], "input_lengths": 1, "request_output_len": 512})
    assert "maxSequenceLength" in answer.text


def test_a_running_answer_outlives_sigterm(served: Served) -> None:
    """From here on the replica is gone: these tests stand last, and run in this order."""
    expected = text_of(say(served, max_tokens=300))
    with served.client as client:
        with client.chat.completions.create(
            model="tiny", messages=HELLO, max_tokens=300, temperature=0, stream=True
        ) as stream:
            parts = [next(stream).choices[0].delta.content]
            served.replica.send_signal(signal.SIGTERM)
            parts += [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(parts) == expected
    served.replica.wait(20)


def test_without_a_replica_a_request_is_held_then_503(served: Served) -> None:
    """Also: the changed config file was read."""
    served.reconfigure(request_timeout_seconds=1)
    began = time.monotonic()
    with pytest.raises(openai.InternalServerError) as caught:
        say(served)
    assert caught.value.status_code == 503
    assert time.monotonic() - began >= 1


def test_a_full_queue_is_429_with_retry_after(served: Served) -> None:
    served.reconfigure(max_queue=0)
    for _ in range(3):  # the first two find out that either replica is away
        with pytest.raises(openai.APIStatusError) as caught:
            say(served)
    assert caught.value.status_code == 429
    assert int(caught.value.response.headers["Retry-After"]) >= 1
