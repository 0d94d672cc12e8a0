"""What an installation is tried out with: the same everywhere, and enough for a run."""

import json
from pathlib import Path

import pytest

from anneal_trainers import trial


def test_model_and_rows_are_written_where_a_job_finds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANNEAL_VOLUMES", str(tmp_path))
    assert trial.main(["--to", "pvc://claim/trial"]) == 0
    folder = tmp_path / "claim" / "trial"
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == trial.ROWS
    assert all(row["messages"][1]["content"] == row["messages"][0]["content"].split()[-1] * 4 for row in rows)
    assert {p.name for p in (folder / "base").iterdir()} >= {
        "config.json",
        "tokenizer.json",
        "model.safetensors",
    }


def test_it_is_the_same_every_time(tmp_path: Path) -> None:
    one, other = (trial.write_tiny_model(tmp_path / name) for name in "ab")
    for path in one.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes()
