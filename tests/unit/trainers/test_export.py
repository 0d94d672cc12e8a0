"""Rows for a deployment's gate: tasks in turn, within a limit, and never none."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from family_models import plain, write_family

from anneal_trainers import export
from anneal_trainers.data.dataset import Split
from anneal_trainers.export import choose_rows


def split(lengths: list[int], tasks: list[int]) -> Split:
    total = sum(lengths)
    return Split(
        tokens=np.zeros(total, np.uint16),
        learned=np.ones(total, np.uint8),
        offsets=np.cumsum([0, *lengths]).astype(np.int64),
        tasks=np.asarray(tasks, np.int32),
        digests=np.asarray([[row] * 32 for row in range(len(lengths))], np.uint8).reshape(-1, 32),
        units=np.arange(len(lengths) + 1),
        difficulty=np.zeros(len(lengths), np.float32),
    )


@pytest.mark.parametrize(
    ("lengths", "tasks", "chosen"),
    [
        ([5, 5, 5, 5], [0, 0, 1, 1], [0, 2, 1]),
        ([5, 5, 90, 5], [0, 1, 0, 1], [0, 1]),
        ([90, 5], [0, 0], [0]),
        ([], [], []),
    ],
    ids=["tasks in turn", "up to the limit", "one row though it is longer", "no rows"],
)
def test_reference_rows(lengths: list[int], tasks: list[int], chosen: list[int]) -> None:
    assert choose_rows(split(lengths, tasks), 16).tolist() == chosen


def test_the_card_lists_each_tasks_loss_before_and_after(tmp_path: Path) -> None:
    rows = {"train": 8, "validation": 2, "test": 1}
    tasks = [{"name": name, "rows": rows} for name in ("a", "b")]
    (tmp_path / "rows.json").write_text(json.dumps({"tasks": tasks}))
    adapter = {"firstTaskLosses": {"a": 2.0, "b": 3.0}, "taskLosses": {"a": 1.25}, "step": 9}
    metadata = {**export.task_losses(adapter), "lineage": {"tasks": {"a": "sha256:1", "b": "sha256:2"}}}
    lines = export.task_table(metadata, tmp_path).splitlines()
    assert lines[0].split(" | ")[4:6] == ["validation loss before", "after"]
    assert lines[2:] == [
        "| a | 8 | 2 | 1 | 2.0000 | 1.2500 | `sha256:1` |",
        "| b | 8 | 2 | 1 | 3.0000 | none | `sha256:2` |",
    ]
    assert export.task_losses({}) == {"firstTaskLosses": {}, "taskLosses": {}}


def test_large_weights_come_in_shards_with_an_index(tmp_path: Path) -> None:
    model = plain(write_family(tmp_path / "base", "smollm2"))
    export.round_to_bf16(model)
    expected = {name: weight.clone() for name, weight in model.state_dict().items()}
    export.write_model(model, tmp_path / "out", shard="100KB")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 1
    assert sorted(set(index["weight_map"].values())) == files
    assert "anneal" not in (tmp_path / "out" / "config.json").read_text()
    again = plain(tmp_path / "out").state_dict()
    assert all(torch.equal(again[name], expected[name]) for name in expected)


def test_generation_settings_are_the_bases_but_for_the_end(tmp_path: Path) -> None:
    export.write_generation_config(tmp_path, tmp_path / "none", [7])
    path = tmp_path / "generation_config.json"
    assert json.loads(path.read_text()) == {"eos_token_id": [7]}
    path.write_text(json.dumps({"temperature": 0.6, "eos_token_id": 1}))
    export.write_generation_config(tmp_path, tmp_path, [2, 3])
    assert json.loads(path.read_text()) == {"temperature": 0.6, "eos_token_id": [2, 3]}
