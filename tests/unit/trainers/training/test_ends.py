"""How an attempt ends, with real processes: told to stop at any moment, killed, and hung; what it leaves."""

import json
import os
import pickle
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from training_pods import Pod, acting, start_pods

from anneal_api.runs import FineTuneRun, attempt_folder, runs_folder
from anneal_trainers import prepare
from anneal_trainers.records import ledger
from anneal_trainers.records.store import Store

GRACE = 100
STEP = "Tally.ask"
"""A function that a step calls once, when its gradient is computed and before the ranks add up."""
FIELDS: dict[str, Any] = {
    "workers": {"acceleratorsPerNode": 2},
    "optimization": {"learningRate": 0.01, "maxSteps": 40, "globalBatchRows": 4},
    "checkpoint": {"everySteps": 3},
    "evaluation": {"everySteps": 3},
}


def started(run: FineTuneRun, folder: Path, act: str, place: str, call: int) -> Pod:
    """Start an attempt whose second rank acts at the given call of the function `place`."""
    extra = acting(folder, act, place, call, rank=1) | {"ANNEAL_GRACE_SECONDS": str(GRACE)}
    extra |= {"TORCH_FR_DUMP_TEMP_FILE": f"{folder}/flight-"}
    extra |= {"TORCH_NCCL_DEBUG_INFO_PIPE_FILE": f"{folder}/pipe-"}
    (pod,) = start_pods(run, folder, **extra)
    return pod


def records(run: FineTuneRun) -> dict[str, Path]:
    folder = Path(attempt_folder(runs_folder(run), 1).removeprefix("file://"))
    return {f"{path.parent.name}/{path.name}": path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "call"),
    [(STEP, 2), ("save", 1), ("validate", 2)],
    ids=["in a step", "in a save", "in a validation"],
)
def test_told_to_stop_at_any_moment_the_current_step_is_saved_within_the_grace_period(
    make_run: Any, tmp_path: Path, place: str, call: int
) -> None:
    run = make_run(**FIELDS)
    prepare.prepare(run)
    code, outcome = started(run, tmp_path, "stop", place, call).finish()
    assert (code, outcome.verdict, outcome.reason) == (75, "Retry", "Preempted"), outcome
    assert "which is saved" in outcome.message  # and not that the launcher gave it up
    found = Store(runs_folder(run), 2, run.inspection.keys.train, 2).newest()
    assert found is not None
    last = ledger.read(runs_folder(run))[-1].step
    assert found[0].step == last < 40
    assert outcome.result == {"step": last, "checkpoint": last}
    assert {name.split("/")[0] for name in records(run)} >= {"logs", "heartbeats", "memory"}


@pytest.mark.slow
def test_a_killed_rank_ends_its_group_and_the_records_follow(
    make_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(**FIELDS)
    prepare.prepare(run)
    pod = started(run, tmp_path, "kill", STEP, 3)
    killed = None
    while pod.process.poll() is None:
        if killed is None and any(map(has_ended, pod.ranks())):
            killed = time.monotonic()
        time.sleep(0.005)
    ended = time.monotonic()
    code, outcome = pod.finish()
    assert (code, outcome.reason) == (70, "RankKilled"), outcome
    assert outcome.result["step"] >= 1
    left = records(run)
    name = f"{os.uname().nodename}-rank-1"
    beats = [json.loads(line) for line in left[f"heartbeats/{name}.jsonl"].read_text().splitlines()]
    assert beats[-1]["phase"] == "compute"
    assert f"logs/{name}.log" in left
    outcome_told = pod.message.stat().st_mtime_ns
    assert all(path.stat().st_mtime_ns >= outcome_told for kind, path in left.items() if "logs/" in kind)
    with capsys.disabled():
        seconds = "unseen" if killed is None else f"{ended - killed:.2f} s"
        print(f"\nfrom the SIGKILL of a rank to the end of its pod, records stored: {seconds}")


def has_ended(rank: psutil.Process) -> bool:
    """Whether a rank is over: a zombie's launcher has not looked yet."""
    try:
        return bool(rank.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.mark.slow
def test_a_hung_rank_leaves_stacks_and_the_flight_record_of_what_its_peers_wait_for(
    make_run: Any, tmp_path: Path
) -> None:
    run = make_run(**FIELDS | {"faultPolicy": {"hangTimeoutSeconds": 20}})
    prepare.prepare(run)
    code, outcome = started(run, tmp_path, "freeze", STEP, 3).finish()
    assert (code, outcome.reason) == (70, "Hang"), outcome
    assert "rank 1 of this pod" in outcome.message
    left = records(run)
    pod = os.uname().nodename
    assert "in accumulate" in left[f"stacks/{pod}-rank-1.stacks"].read_text()
    traces = [pickle.loads(left[f"flight/{pod}-rank-{rank}"].read_bytes()) for rank in (0, 1)]
    done = [int(trace["pg_status"]["0"]["last_enqueued_collective"]) for trace in traces]
    assert done[0] == done[1] + 1
