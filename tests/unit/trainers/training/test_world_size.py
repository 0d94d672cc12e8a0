"""A run that two ranks began goes on with one or three: the same rows and rates, losses but for rounding.

A real model in float32, and in bf16 as accelerators compute. The tolerances are stated in docs/training.md.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from linear_model import make_split
from thread_ranks import Meeting, together

from anneal_api.finetunejob import Adapter, FineTuneJobSpec
from anneal_trainers.base import model
from anneal_trainers.data.dataset import Split
from anneal_trainers.pod.channel import Channel
from anneal_trainers.records import ledger
from anneal_trainers.records.ledger import Entry
from anneal_trainers.records.store import Store
from anneal_trainers.training import loop
from anneal_trainers.training.run import Run, StopFlag

STEPS, SAVED = 4, 2
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 3e-3}
"""Of a loss, relative; measured were 2.3e-7 and 2.8e-4."""


def rows(lengths: list[int], seed: int) -> Split:
    return make_split(lengths, [0, 1] * (len(lengths) // 2), seed=seed)


def make_run(tiny: Path, store: Path, kind: str, attempt: int, rank: int, meeting: Meeting) -> Run:
    spec = {
        "baseModel": {"uri": "file:///unused"},
        "tasks": [{"name": name, "data": {"uri": "file:///unused"}} for name in "ab"],
        "optimization": {"maxSteps": STEPS, "globalBatchRows": 5, "learningRate": 0.003},
        "adapter": {"type": kind, "rank": 4, "alpha": 8},
        "data": {"maxLength": 40},
        "evaluation": {"everySteps": STEPS},
        "checkpoint": {"everySteps": SAVED},
        "output": {"uri": "file:///unused"},
    }
    return Run(
        spec=FineTuneJobSpec.model_validate(spec),
        tasks=["a", "b"],
        train=rows([5, 19, 8, 31, 3, 12, 26, 9, 7, 15, 22, 4], 0),
        validation=rows([9, 14, 6, 11], 1),
        trainee=model.build(tiny, Adapter.model_validate(spec["adapter"]), 0, torch.device("cpu")),
        group=meeting.rank(rank),
        store=Store(f"file://{store}", attempt, "run", 9, before=SAVED + 1),
        channel=Channel(None),
        stop=StopFlag(),
        attempt=attempt,
    )


def trained(tiny: Path, store: Path, kind: str, world: int, attempt: int) -> tuple[list[Entry], list[float]]:
    """Let `world` ranks train from where the store is to the end; return the ledger and validation losses."""
    meeting = Meeting(world)
    runs = [make_run(tiny, store, kind, attempt, rank, meeting) for rank in range(world)]
    found = together(lambda rank: loop.train(runs[rank]), world)
    return ledger.read(f"file://{store}"), found[0].losses


@pytest.mark.parametrize(
    ("kind", "compute"),
    [
        ("lora", torch.float32),
        pytest.param("qlora", torch.float32, marks=pytest.mark.slow),
        # A CPU computes bf16 many times slower than an accelerator.
        pytest.param("qlora", torch.bfloat16, marks=pytest.mark.slow),
    ],
    ids=["lora", "qlora", "bf16"],
)
def test_another_number_of_ranks_takes_the_same_rows_to_the_same_losses(
    tiny: Path, tmp_path: Path, kind: str, compute: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "compute_type", lambda device: compute)
    expected, validations = trained(tiny, tmp_path / "whole", kind, 2, attempt=1)
    assert expected[-1].loss < expected[0].loss - 0.05
    for world in (1, 3):
        store = tmp_path / str(world)
        shutil.copytree(tmp_path / "whole", store)
        found, losses = trained(tiny, store, kind, world, attempt=2)
        assert [entry.world for entry in found] == [2] * SAVED + [world] * (STEPS - SAVED)
        assert [entry.rows for entry in found] == [entry.rows for entry in expected]
        assert [entry.learning_rate for entry in found] == [entry.learning_rate for entry in expected]
        close: dict[str, Any] = {"rel": TOLERANCES[compute]}
        assert [entry.loss for entry in found] == pytest.approx([entry.loss for entry in expected], **close)
        assert losses == pytest.approx(validations, **close)
