"""lm-eval's own runner, in its own environment, asks a gateway that serves a model; `scripts/install lmeval` makes the former."""

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import uvicorn
from tests.gateway_front import ADDRESSES, version_of
from tests.tiny_model import write_tiny_model

from anneal_api.runs import GatewayConfig
from anneal_evaluation import comparison, records
from anneal_evaluation.results import SuiteResult
from anneal_runtime.chat import ChatEncoder
from anneal_serving.gateway.app import Gateway
from anneal_serving.gateway.balancer import Balancer
from anneal_serving.gateway.keys import Keys
from anneal_serving.gateway.replicas import Job, Step
from anneal_serving.gateway.routes import Route, Router, Routes

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[4]
HARNESS = ROOT / ".venv-lmeval/bin/python"
TOKENS = 6
WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]
TASK = """
task: echoes
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "Say {{word}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n\\n"], do_sample: false, max_gen_toks: 6}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


@dataclass(frozen=True)
class Served:
    """A model, and the gateway that serves it."""

    encoder: ChatEncoder
    model: Any
    url: str

    def answer(self, word: str, chat: bool) -> str:
        """Return what the model says to a prompt, without gateway and harness."""
        text = f"Say {word}"
        said = [{"role": "user", "content": text}]
        ids = self.encoder.encode(said, True).ids if chat else list(self.encoder.encode_plain(text).ids)
        found = [token for token in go_on(self.model, ids) if token not in self.encoder.eos_ids]
        return self.encoder.decode(found).partition("\n\n")[0]


def go_on(model: Any, ids: list[int]) -> list[int]:
    """Return the most likely tokens after `ids`."""
    prompt = torch.tensor([ids])
    with torch.inference_mode():
        found = model.generate(prompt, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0)
    return [int(token) for token in found[0, len(ids) :]]


@dataclass(frozen=True)
class Replica:
    """A source of tokens that runs the model."""

    model: Any

    async def stream(self, address: str, job: Job, timeout: float) -> AsyncGenerator[Step, None]:
        """Yield the tokens one by one."""
        for token in go_on(self.model, job.ids)[: job.max_tokens]:
            yield Step([token], [])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    model_folder = write_tiny_model(folder / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder).eval()
    encoder = ChatEncoder.from_pretrained_folder(model_folder)
    config = GatewayConfig(
        model="tiny", namespace="team", versions=[version_of()], max_queue=64, request_timeout_seconds=60
    )
    balancer = Balancer(4, config.max_queue)
    balancer.update(ADDRESSES)
    router = Router(folder / "gateway.json", folder)
    router.current = Routes(config, [Route(config.versions[0], encoder, balancer)])
    (folder / "keys").mkdir()
    app = Gateway(router, Keys(folder / "keys"), Replica(model)).app()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield Served(encoder, model, f"http://127.0.0.1:{listening.getsockname()[1]}/v1")
        server.should_exit = True
        thread.join()


def run(task: Path, url: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Score a task file by the command."""
    sources = os.pathsep.join(str(ROOT / package / "src") for package in ("api", "runtime", "evaluation"))
    command = [HARNESS, "-m", "anneal_evaluation", "run", "--suite", f"file://{task}", "--endpoint", url]
    return subprocess.run(
        [*command, "--model", "tiny", "--to", str(task.parent / "out"), *options],
        env=os.environ | {"PYTHONPATH": sources, "HF_HOME": str(task.parent / "cache")},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
    )


def write(folder: Path, task: str, rows: list[dict[str, str]], **others: str) -> Path:
    """Write a task, its data, and other files, and return the task's place."""
    folder.mkdir(exist_ok=True)
    for name, text in (("task.yaml", task), *others.items()):
        (folder / name).write_text(text)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "task.yaml"


def scored(folder: Path, served: Served, chat: bool) -> SuiteResult:
    """Score ten prompts, of which the model answers every one but the first four as is wanted."""
    answers = [served.answer(word, chat) for word in WORDS]
    wanted = [f"not {a}" if n < 4 else a for n, a in enumerate(answers)]
    rows = [{"word": w, "answer": a} for w, a in zip(WORDS, wanted, strict=True)]
    task = write(folder, TASK, rows, **{"group.yaml": "group: all\ntask: [echoes]\n"})
    done = run(task, served.url) if chat else run(folder / "group.yaml", served.url, "--as-text")
    assert done.returncode == 0, done.stderr
    (result,) = records.parse((folder / "out" / records.RESULTS).read_bytes())
    assert [p.samples[0].answer for p in result.problems] == answers
    assert [p.wanted for p in result.problems] == wanted
    assert [p.samples[0].score for p in result.problems] == [float(n >= 4) for n in range(10)]
    assert "| exact_match | 60.0% [31.3, 83.2] | 10 |" in (folder / "out" / "report.md").read_text()
    assert not list(folder.rglob("*.pyc"))
    return result


def test_what_is_scored_is_what_the_endpoint_serves(served: Served, tmp_path: Path) -> None:
    chat = scored(tmp_path / "chat", served, chat=True)
    text = scored(tmp_path / "text", served, chat=False)
    assert chat.settings.harness.endswith("as a chat")
    assert chat.settings.max_tokens == TOKENS
    assert chat.suite == f"file://{tmp_path}/chat/task.yaml#echoes"
    assert text.suite == f"file://{tmp_path}/text/group.yaml#echoes"
    found = comparison.compare(chat, chat)
    assert (found.problems, found.decision) == (10, "undecided")
    with pytest.raises(Exception, match="were not asked the same"):
        comparison.compare(chat, text)


ROWS = [{"word": "alpha", "answer": "beta"}]
CHOICE = "output_type: multiple_choice\ndoc_to_choice: [alpha, beta]\n"
REFUSED = {
    "a task that compares log-probabilities": (
        TASK.replace("output_type: generate_until\n", CHOICE)
        .replace('generation_kwargs: {until: ["\\n\\n"], do_sample: false, max_gen_toks: 6}\n', "")
        .replace("exact_match", "acc")
        .replace("{{answer}}", "1"),
        "NeedsLogLikelihoods: task echoes: output_type: multiple_choice",
        "generate_until",
    ),
    "a group with a task that is not there": (
        "group: all\ntask: [echos]\n",
        "task: echos: no YAML file",
        "There are all",
    ),
    "data of a hub": (
        TASK.replace("dataset_path: json", "dataset_path: owner/rows"),
        "owner/rows",
        "data is read without a network",
    ),
    "code that would run unconfined": (
        TASK + "unsafe_code: true\n",
        "task echoes: unsafe_code",
        "programs run in the sandbox",
    ),
    "a setting that endpoints are not asked with": (
        TASK.replace("do_sample: false", "top_k: 3"),
        "task echoes: generation_kwargs.top_k: 3",
        "leave it out",
    ),
    "a metric of which less is better": (
        TASK.replace("exact_match", "ter").replace("higher_is_better: true", "higher_is_better: false"),
        "task echoes: metric ter",
        "leave it out of metric_list",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_an_endpoint_cannot_be_asked_is_refused_before_it_is(tmp_path: Path, case: str) -> None:
    task, named, remedy = REFUSED[case]
    done = run(write(tmp_path / "task", task, ROWS), "http://127.0.0.1:9/v1")
    assert done.returncode == os.EX_USAGE, done.stderr
    told = done.stderr.strip().splitlines()[-1]
    assert named in told
    assert remedy in told
