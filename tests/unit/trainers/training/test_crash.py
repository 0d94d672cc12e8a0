"""Runs of three ranks killed with signal 9 at seeded points end bit for bit as the one that was left alone.

The killed rank ends inside of a named function, at its n-th call: between two packs of a step or of a measurement,
as the validation after a step begins, before the staging copy, between the two files of a checkpoint, around its
rename. Last, a whole pod is killed, launcher first, wherever its ranks are just then.
"""

import contextlib
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_pods import acting, environment_of, start_pods

from anneal_api.runs import FineTuneRun, runs_folder
from anneal_trainers import prepare
from anneal_trainers.records import ledger

STEPS = 9
FIELDS: dict[str, Any] = {
    "workers": {"acceleratorsPerNode": 3},
    "adapter": {"rank": 4, "alpha": 8, "dropout": 0.2},
    "optimization": {
        "learningRate": 0.01,
        "maxSteps": STEPS,
        "globalBatchRows": 18,
        "taskBalance": "coba",
        "coba": {"warmupSteps": 2, "historySteps": 4, "rows": 2},
        "earlyStopping": {"patience": 3},
    },
    "checkpoint": {"everySteps": 2},
    "evaluation": {"everySteps": 3},
    "faultPolicy": {"hangTimeoutSeconds": 3600},  # ranks that get no CPU for long are no hang
}


def whole(run: FineTuneRun, folder: Path, attempt: int = 1) -> int:
    """Train to the end; return how many steps that took."""
    (pod,) = start_pods(run, folder, attempt)
    code, outcome = pod.finish()
    assert (code, outcome.verdict) == (0, "Succeeded"), outcome
    return int(outcome.result["step"])


def crashed(run: FineTuneRun, folder: Path, attempt: int, place: str, call: int, rank: int) -> None:
    """Let `rank` be killed at the given call of the function `place`."""
    (pod,) = start_pods(run, folder, attempt, **acting(folder, "kill", place, call, rank))
    code, outcome = pod.finish()
    assert (code, outcome.reason) == (70, "RankKilled"), outcome
    assert f"rank {rank} " in outcome.message


def killed_whole(run: FineTuneRun, folder: Path, attempt: int) -> None:
    """Kill a pod at once, launcher and ranks, after its first step."""
    (pod,) = start_pods(run, folder, attempt)
    while not pod.has_stepped:
        assert pod.process.poll() is None
        time.sleep(0.01)
    ranks = pod.ranks()
    pod.process.kill()
    for rank in ranks:
        with contextlib.suppress(psutil.NoSuchProcess):
            rank.kill()
    assert pod.process.wait(20) == -signal.SIGKILL


def checkpoint_of(run: FineTuneRun, step: int) -> dict[str, bytes]:
    """Return the files of a step's checkpoint, of whichever attempt: the last finds it where its first step was the end."""
    runs = Path(runs_folder(run).removeprefix("file://"))
    newest = max(runs.glob(f"attempt-*/step-{step:08d}"))
    return {path.name: path.read_bytes() for path in newest.iterdir()}


def curves(run: FineTuneRun) -> EventAccumulator:
    folder = Path(runs_folder(run).removeprefix("file://")) / "tensorboard"
    return EventAccumulator(str(folder)).Reload()


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_killed_at_any_point_a_run_ends_as_one_left_alone(make_run: Any, tmp_path: Path, seed: int) -> None:
    alone, parted = make_run(uid="left-alone", **FIELDS), make_run(uid="was-killed", **FIELDS)
    prepare.prepare(alone)
    steps = whole(alone, tmp_path)
    choose = random.Random(seed)
    saving = [("flush_to_disk", choose.randint(1, 4), 0), ("Staging.copy", 2, 0), ("Store._prune", 1, 0)]
    points = [
        ("Supervised.measure", choose.randint(5, 9), choose.randrange(3)),
        ("validate", 2, choose.randrange(3)),
        choose.choice(saving),
    ]
    choose.shuffle(points)
    for attempt, point in enumerate(points, 1):
        crashed(parted, tmp_path, attempt, *point)
    killed_whole(parted, tmp_path, len(points) + 1)
    last = len(points) + 2
    assert whole(parted, tmp_path, last) == steps
    # Bytes of the state (losses, early stopping, CoBa) and of the tensors (weights, both moments).
    assert checkpoint_of(parted, steps) == checkpoint_of(alone, steps)
    expected = [replace(entry, attempt=0) for entry in ledger.read(runs_folder(alone))]
    assert [entry.step for entry in expected] == list(range(1, steps + 1))
    assert [replace(entry, attempt=0) for entry in ledger.read(runs_folder(parted))] == expected
    drawn = [event.step for event in curves(parted).Scalars("train/loss")]
    assert drawn == sorted(set(drawn))
    assert drawn[-1] == steps


@pytest.mark.slow
def test_a_step_is_replayed_bit_for_bit_and_its_rows_are_shown(make_run: Any, tmp_path: Path) -> None:
    run = make_run(**FIELDS | {"workers": {"acceleratorsPerNode": 2}})
    prepare.prepare(run)
    whole(run, tmp_path)
    step, written = STEPS - 1, files(tmp_path / "store")
    entry = ledger.read(runs_folder(run))[step - 1]
    said = told(run, tmp_path, "replay", "--step", str(step))
    assert f"step {step} is equal: loss {entry.loss!r}, gradient norm {entry.gradient_norm!r}" in said
    shown = [line.split() for line in said.splitlines() if line.endswith(("sums", "words"))]
    assert sorted(digest for _, _, digest, _ in shown) == sorted(entry.rows)
    losses = [float(loss) for loss, *_ in shown]
    assert losses == sorted(losses)
    assert told(run, tmp_path, "spikes").startswith(f"{STEPS} steps, ")
    assert files(tmp_path / "store") == written


def told(run: FineTuneRun, folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "anneal_trainers", *arguments]
    environment = environment_of(run, folder)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def files(folder: Path) -> dict[Path, int]:
    """Return the files below `folder` and when each was last written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
