"""`python3 -m anneal_evaluation` against an endpoint: what is asked, what is written, and what is made of it."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from anneal_evaluation.__main__ import main

ROWS = [
    {"task_id": name, "prompt": f"def {name}(x):\n", "entry_point": name, "canonical_solution": "    return x + 1\n",
     "test": "def check(c):\n    assert c(1) == 2"}
    for name in ("f", "g")
]  # fmt: skip
RIGHT, WRONG = "    return x + 1\n", "    return None\n"


class Model(ThreadingHTTPServer):
    """An endpoint that solves the first problem whenever its seed is even, and the second never."""

    asked: list[dict[str, Any]]


class _Handler(BaseHTTPRequestHandler):
    server: Model

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        put = body["messages"][0]["content"] if "messages" in body else body["prompt"]
        text = RIGHT if "def f(" in put and body.get("seed", 0) % 2 == 0 else WRONG
        said = {"message": {"content": text}} if "messages" in body else {"text": text}
        answer = {"choices": [said]}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def model() -> Iterator[Model]:
    with Model(("127.0.0.1", 0), _Handler) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def scored(model: Model, folder: Path, name: str, *options: str) -> Path:
    """Return where a model's results lie."""
    suite = folder / "own.jsonl"
    suite.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    address = f"http://127.0.0.1:{model.server_address[1]}/v1"
    where = ["--suite", f"file://{suite}", "--endpoint", address, "--model", name, "--to", str(folder / name)]
    assert main(["run", *where, *options]) == 0
    return folder / name


def test_greedy_is_the_default_and_sampling_has_seeds(model: Model, tmp_path: Path) -> None:
    scored(model, tmp_path, "greedy")
    assert [(ask["temperature"], "seed" in ask) for ask in model.asked] == [(0.0, False)] * 2
    model.asked.clear()
    options = ("--samples", "2", "--temperature", "0.8", "--seed", "6")
    found = scored(model, tmp_path, "sampled", *options)
    told = sorted(
        (ask["messages"][0]["content"][-10:], ask["temperature"], ask["seed"]) for ask in model.asked
    )
    assert [each[1:] for each in told] == [(0.8, 6), (0.8, 7)] * 2
    (result,) = json.loads((found / "results.json").read_text())
    assert [[s["state"] for s in p["samples"]] for p in result["problems"]] == [
        ["passed", "failed"],
        ["failed", "failed"],
    ]
    assert (result["settings"]["seed"], result["scores"][0]["value"]) == (6, 0.25)


def test_metrics_and_pages_hold_the_scores(model: Model, tmp_path: Path) -> None:
    found = scored(model, tmp_path, "mine")
    told = {
        (
            sample.name,
            *(value for name, value in sample.labels.items() if name in ("score", "verdict")),
        ): sample.value
        for family in text_string_to_metric_families((found / "metrics.prom").read_text())
        for sample in family.samples
        if sample.labels["model"] == "mine"
    }
    assert told[("anneal_evaluation_score", "pass@1")] == 0.5
    assert (
        told[("anneal_evaluation_score_low", "pass@1")]
        < 0.5
        < told[("anneal_evaluation_score_high", "pass@1")]
    )
    assert told[("anneal_evaluation_samples", "passed")] == told[("anneal_evaluation_samples", "failed")] == 1
    page = (found / "report.html").read_text()
    assert "<td>pass@1<td>50.0% [" in page
    assert 'class="passed">passed 1.00' in page
    assert 'class="failed">failed 0.00' in page
    assert "| pass@1 | 50.0% [" in (found / "report.md").read_text()


def test_results_are_compared_and_ranked(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (scored(model, tmp_path, name) / "results.json" for name in ("one", "other"))
    capsys.readouterr()
    assert main(["compare", str(one), str(other)]) == 0
    assert "other against one: undecided; +0.0 points [+0.0, +0.0] over 2 problems" in capsys.readouterr().out
    assert main(["winrate", str(one), str(other)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[:2] for line in told[2:4]] == [["| one", "2.00"], ["| other", "2.00"]]
    assert told[-1].startswith("WinRate: the mean over 1 columns of 2 models - (rank - 1)")


def test_what_cannot_be_read_is_told_with_its_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.json").write_text("[{}]")
    assert main(["winrate", str(tmp_path / "results.json")]) == 64
    assert "name a results.json that `run` has written" in capsys.readouterr().err


def test_a_base_model_is_asked_to_go_on_and_compared_with_none_that_was_asked_otherwise(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = scored(model, tmp_path, "base", "--as-text") / "results.json"
    assert sorted((ask["prompt"], ask["stop"]) for ask in model.asked) == [
        (f"def {name}(x):\n", ["\nclass", "\ndef", "\n#", "\n@"]) for name in ("f", "g")
    ]
    assert "put as texts to go on from" in capsys.readouterr().out
    chat = scored(model, tmp_path, "chat") / "results.json"
    assert main(["compare", str(base), str(chat)]) == 64
    assert "NotComparable" in capsys.readouterr().err
