"""A replica of the LLM API in real tritonserver behind the gateway; only TensorRT-LLM itself is a stand-in, which runs the
engine artifact's own weights on transformers."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch

from anneal_api.base import wire
from anneal_runtime.chat import ChatEncoder
from anneal_serving import engine, inspect_stage, quantize

from ..conftest import torch_model
from ..gateway.test_served import HELLO, Served, free_ports, gateway_config, say, stage, text_of

STANDIN = Path(__file__).parents[3] / "standin"
pytestmark = pytest.mark.slow


@contextmanager
def serving(world: Any, work: Path) -> Iterator[Served]:
    """A replica of two slots and a gateway."""
    limits = {"maxBatchSize": 2, "maxInputLength": 256, "maxSequenceLength": 512}
    run = world.run(
        quantization={"method": "none"}, engine={"runtime": "tensorrt-llm-pytorch"} | limits, drainSeconds=20
    )
    run = run.model_copy(update={"inspection": inspect_stage.run(run)})
    quantize.run(run)
    engine.run(run)
    http, grpc, metrics, port = free_ports(4)
    config = gateway_config(run)
    version = config.versions[0].model_copy(update={"max_batch_size": 2, "runtime": "tensorrt-llm-pytorch"})
    config = config.model_copy(update={"versions": [version]})
    for name, content in (("run.json", run), ("gateway.json", config)):
        (work / name).write_text(json.dumps(wire(content)))
    paths = f"{STANDIN}:{os.environ.get('PYTHONPATH', '')}"
    common = {"ANNEAL_WORK": str(work), "OMP_NUM_THREADS": "1"}
    triton = common | {
        "PYTHONPATH": paths,
        "ANNEAL_RUN": str(work / "run.json"),
        "ANNEAL_TRITON_PORTS": f"{http},{grpc},{metrics}",
        "ANNEAL_TERMINATION_LOG": str(work / "termination"),
    }
    front = common | {
        "ANNEAL_GATEWAY_CONFIG": str(work / "gateway.json"),
        "ANNEAL_GATEWAY_PORT": str(port),
        "ANNEAL_REPLICAS": f"127.0.0.1:{grpc}",
    }
    ready, url = f"http://127.0.0.1:{http}/v2/health/ready", f"http://127.0.0.1:{port}"
    encoder = ChatEncoder.load(Path(version.engine.uri.removeprefix("file://")))
    log = work / "gateway.log"
    with (
        stage("serve", work / "triton.log", ready, triton) as replica,
        stage("gateway", log, f"{url}/readyz", front),
    ):
        yield Served(replica, (http, grpc, metrics), url, work / "gateway.json", log, encoder)


@pytest.fixture(scope="module")
def served(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(world, tmp_path_factory.mktemp("llm")) as made:
        yield made


def test_an_answer_is_the_models_own(served: Served, world: Any) -> None:
    ids = served.encoder.encode(HELLO, add_generation_prompt=True).ids
    with torch.no_grad():
        whole = torch_model(world.folder).generate(
            torch.tensor([ids]), max_new_tokens=24, do_sample=False, pad_token_id=0
        )
    expected = [token for token in whole[0, len(ids) :].tolist() if token not in served.encoder.eos_ids]
    assert text_of(say(served)) == served.encoder.decode(expected)


def test_the_load_is_told_under_the_same_names(served: Served) -> None:
    assert served.gauge("anneal_requests_active") == 0
    assert served.gauge("anneal_requests_waiting") == 0


def test_text_streams_through_the_model_that_calls_the_others(served: Served) -> None:
    url = f"http://127.0.0.1:{served.ports[0]}/v2/models/tensorrt_llm_bls"
    body = {"text_input": "def f(x):", "max_tokens": 24, "top_k": 1}
    with served.client as client:
        same = client.completions.create(model="tiny", prompt="def f(x):", max_tokens=24, temperature=0)
    assert httpx.post(f"{url}/generate", json=body).json()["text_output"] == same.choices[0].text
    lines = httpx.post(f"{url}/generate_stream", json=body | {"stream": True}).text.splitlines()
    parts = [json.loads(line.removeprefix("data: "))["text_output"] for line in lines if line]
    assert len(parts) > 4
    assert "".join(parts) == same.choices[0].text
    assert not any(part.endswith("�") for part in parts[:-1]), "half a character"


def test_an_error_of_the_engine_reaches_who_asked_by_text(served: Served) -> None:
    url = f"http://127.0.0.1:{served.ports[0]}/v2/models/tensorrt_llm_bls/generate"
    refused = httpx.post(url, json={"text_input": "x", "max_tokens": 600})
    assert refused.status_code >= 400
    assert "maxSequenceLength" in refused.text


def stub_of(replica: int) -> int:
    """Return the process of the model below a replica's."""
    [server] = Path(f"/proc/{replica}/task/{replica}/children").read_text().split()
    below = Path(f"/proc/{server}/task").glob("*/children")
    found = [pid for path in below for pid in path.read_text().split()]
    [stub] = [
        pid for pid in found if b"/tensorrt_llm/1/model.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return int(stub)


def test_a_replica_ends_with_its_model_and_its_streams_fail_at_once(world: Any, tmp_path: Path) -> None:
    with serving(world, tmp_path) as own, own.client as client:
        stream = client.chat.completions.create(
            model="tiny", messages=HELLO, max_tokens=450, temperature=0, stream=True
        )
        next(stream)
        os.kill(stub_of(own.replica.pid), signal.SIGKILL)
        with pytest.raises(openai.APIError):
            list(stream)
        assert own.replica.wait(20) == 128 + signal.SIGKILL


def test_sigterm_lets_a_stream_end(served: Served) -> None:
    with served.client as client:
        stream = client.chat.completions.create(
            model="tiny", messages=HELLO, max_tokens=150, temperature=0, seed=1, stream=True
        )
        next(stream)
        served.replica.send_signal(signal.SIGTERM)
        finish = [chunk.choices[0].finish_reason for chunk in stream]
    assert finish[-1] in ("length", "stop")
    served.replica.wait(30)
