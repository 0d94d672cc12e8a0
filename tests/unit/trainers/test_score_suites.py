"""The suites stage on a model that knows nothing: what it writes is the same in a batch, and scored once."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from anneal_api.artifacts import Producer
from anneal_api.runs import FineTuneRun
from anneal_evaluation import records
from anneal_evaluation.in_process import GREEDY, Prompt
from anneal_runtime.artifacts import publishing
from anneal_runtime.chat import ChatEncoder
from anneal_runtime.errors import Refused
from anneal_trainers import score_suites

CODE = {"task_id": "one", "prompt": "def f(x):\n", "entry_point": "f", "canonical_solution": "    return x + 1\n",
        "test": "def check(c):\n    assert c(1) == 2"}  # fmt: skip
LINE = {"context": "word number ", "line": "seven"}


@pytest.fixture
def problems(tmp_path: Path) -> str:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (CODE, LINE)))
    return f"file://{path}"


@pytest.fixture
def exported(tmp_path: Path, tiny: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in tiny.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    ChatEncoder.from_pretrained_folder(tiny).save(folder)
    return folder


def test_a_batch_writes_what_each_prompt_alone_does(exported: Path) -> None:
    model = score_suites.load(exported)
    prompts = [Prompt(tuple(range(5, 5 + length)), 12) for length in (3, 40, 11)]
    together = model.run(prompts)
    assert together == [model.run([prompt])[0] for prompt in prompts]
    assert [len(ids) for ids in together] == [12, 12, 12]
    assert torch.is_grad_enabled()


def test_suites_are_scored_and_published_once(
    make_run: Callable[..., FineTuneRun], exported: Path, problems: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_suites, "GREEDY", GREEDY.model_copy(update={"max_tokens": 24}))
    run = make_run(evaluation={"suites": [problems]})
    assert run.inspection is not None
    key, store = run.inspection.keys.export, run.spec.output.uri
    with publishing(store, "demo", "model", key, producer=Producer(), inputs={}) as publication:
        for path in exported.iterdir():
            (publication.folder / path.name).write_bytes(path.read_bytes())
    first = score_suites.score_suites(run)
    (score,) = first.scores
    assert (score.suite, score.score, score.value, score.problems) == (problems, "pass@1", 0.0, 1)
    folder = Path(first.artifact.uri.removeprefix("file://"))
    assert {p.name for p in folder.iterdir()} >= {"results.json", "report.md", "report.html", "metrics.prom"}
    assert records.scores(first.artifact) == first.scores
    monkeypatch.setattr(score_suites, "load", None)
    assert score_suites.score_suites(run) == first


def test_a_suite_that_cannot_be_run_is_refused_before_anything_is_trained(
    make_run: Callable[..., FineTuneRun], tmp_path: Path
) -> None:
    (tmp_path / "rust.jsonl").write_text(
        json.dumps({"name": "p", "language": "rust", "prompt": "x", "tests": "y"}) + "\n"
    )
    with pytest.raises(Refused, match="programs in rust cannot be run"):
        make_run(evaluation={"suites": [f"file://{tmp_path}/rust.jsonl"]})
    with pytest.raises(Refused, match="suites are run on the merged model"):
        make_run(evaluation={"suites": ["humaneval"]}, output={"uri": f"file://{tmp_path}", "merge": False})
