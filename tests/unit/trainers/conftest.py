"""A tiny model and rows for it; run configs as the operator writes them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from tiny_model import write_tiny_model

from anneal_api.base import wire
from anneal_api.runs import FineTuneRun
from anneal_trainers.inspect_stage import inspect

# The same examples on every run, however slow the machine.
hypothesis.settings.register_profile("deterministic", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("deterministic")

MakeRun = Callable[..., FineTuneRun]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's folder."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks of 40 rows: sums in words, and words turned round."""
    folder = tmp_path_factory.mktemp("data")
    sums = [{"prompt": f"add {i} and {i * 7 % 13}", "answer": f"it is {i + i * 7 % 13}"} for i in range(40)]
    words = [
        {"text": f"the word number {i} is {'x' * (i % 9 + 1)}", "group": f"g{i // 2}"} for i in range(40)
    ]
    for name, rows in (("sums", sums), ("words", words)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def make_run(tmp_path: Path, tiny: Path, data: Path) -> MakeRun:
    """Return a maker of inspected runs; keyword arguments replace parts of the spec."""

    def make(uid: str = "0123456789", inspected: bool = True, **changes: Any) -> FineTuneRun:
        spec = {
            "baseModel": {"uri": f"file://{tiny}"},
            "tasks": [
                {"name": n, "data": {"uri": f"file://{data}/{n}.jsonl"}, "weight": w}
                for n, w in (("sums", 2.0), ("words", 1.0))
            ],
            "data": {"maxLength": 128, "split": {"train": 60, "validation": 20, "test": 20}},
            "adapter": {"rank": 4, "alpha": 8},
            "optimization": {"learningRate": 0.01, "maxSteps": 4, "globalBatchTokens": 512},
            "checkpoint": {"everySteps": 2},
            "output": {"uri": f"file://{tmp_path}/store"},
        } | changes
        run = FineTuneRun.model_validate(
            {
                "namespace": "demo",
                "name": "job",
                "uid": uid,
                "spec": spec,
                "accelerator": {"name": "cpu", "memoryGib": 1},
            }
        )
        return run.model_copy(update={"inspection": inspect(run)}) if inspected else run

    return make


def write_run(path: Path, run: FineTuneRun) -> Path:
    """Write a run config as the operator mounts it."""
    path.write_text(json.dumps(wire(run)))
    return path
