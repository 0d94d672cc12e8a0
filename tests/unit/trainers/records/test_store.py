"""Checkpoints are written beside the run; the newest whole one of one's own run is found, few are kept."""

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from anneal_runtime.errors import TryAgain
from anneal_runtime.storage import resolve
from anneal_trainers.records import checkpoint
from anneal_trainers.records.checkpoint import State
from anneal_trainers.records.staging import Staging
from anneal_trainers.records.store import Store, Timer, superfluous


def store(folder: Path, attempt: int = 1, keep: int = 2) -> Store:
    return Store(f"file://{folder}", attempt, "run", keep)


def save(target: Store, step: int, best: int = 0) -> None:
    target.save(State(step=step, best_step=best), {"adapter": torch.full((5,), float(step))})
    target.wait()


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    save(store(tmp_path), 3)
    found = store(tmp_path).newest()
    assert found is not None
    assert found[0].step == 3
    assert found[1]["adapter"].tolist() == [3.0] * 5


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    target = store(tmp_path)
    for step in range(1, 7):
        save(target, step, best=min(step, 2))
    assert sorted(p.name for p in (tmp_path / "attempt-1").iterdir()) == [
        f"step-0000000{n}" for n in (2, 5, 6)
    ]
    assert target.latest == 6


@pytest.mark.parametrize(
    ("steps", "keep", "best", "verified", "gone"),
    [
        ({1: [2, 4, 6]}, 2, 0, 0, [(1, 2)]),
        ({1: [2, 4, 6], 2: [8]}, 2, 0, 6, [(1, 4), (1, 2)]),
        ({1: [2, 4, 6], 2: [8, 10]}, 2, 2, 6, [(1, 4)]),
        ({1: [2, 4], 2: [6], 3: [8]}, 1, 0, 6, [(1, 4), (1, 2)]),
        ({1: [2, 4, 6, 8], 2: [6, 8]}, 1, 0, 4, [(2, 6), (1, 2)]),
        ({1: [2, 4], 2: [2]}, 1, 0, 0, []),
    ],
    ids=["own", "one spared", "best", "three attempts", "an earlier one runs on", "nothing verified"],
)
def test_what_is_kept_is_counted_over_all_attempts(
    steps: dict[int, list[int]], keep: int, best: int, verified: int, gone: list[tuple[int, int]]
) -> None:
    assert superfluous(steps, keep, best, verified) == gone


def test_of_earlier_attempts_only_finished_checkpoints_are_removed(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(store(tmp_path, 1, keep=3), step)
    (tmp_path / "attempt-1" / "step-00000001" / "state.json").unlink()
    second = store(tmp_path, 2, keep=1)
    assert second.newest() is not None
    save(second, 4)
    assert [sorted(p.name for p in tmp_path.glob(f"attempt-{n}/*")) for n in (1, 2)] == [
        ["step-00000001", "step-00000003"],
        ["step-00000004"],
    ]


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, file: str, damage: str) -> None:
    target = store(tmp_path)
    save(target, 1)
    save(target, 2)
    path = tmp_path / "attempt-1" / "step-00000002" / file
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[-1] ^= 0xFF
        path.write_bytes(content)
    found = store(tmp_path).newest()
    assert found is not None
    assert found[0].step == 1
    assert target.at(2) is None


@pytest.mark.parametrize("call", ["cat_file", "ls"])
def test_a_storage_that_fails_is_no_reason_to_go_on_from_an_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    for step in (1, 2):
        save(store(tmp_path), step)
    filesystem = resolve(f"file://{tmp_path}")[0]
    work = getattr(filesystem, call)

    def stale(path: str, **options: Any) -> Any:
        if "step-00000001" in path:
            return work(path, **options)
        raise OSError(errno.ESTALE, "stale file handle", path)

    monkeypatch.setattr(filesystem, call, stale)
    with pytest.raises(TryAgain, match="attempt-1.* cannot be read: .*stale file handle") as caught:
        store(tmp_path).newest()
    assert caught.value.reason == "StorageAway"


def test_a_changed_number_in_the_state_is_damage_too(tmp_path: Path) -> None:
    target = store(tmp_path)
    save(target, 2, best=2)
    path = tmp_path / "attempt-1" / "step-00000002" / "state.json"
    path.write_text(path.read_text().replace('"best_step": 2', '"best_step": 1'))
    assert target.newest() is None


def test_leftovers_in_the_folder_are_no_checkpoints(tmp_path: Path) -> None:
    runs = tmp_path / "two-step-run"
    for name in (".step-00000001.77", "stacks", "step-notes"):
        (runs / "attempt-1" / name).mkdir(parents=True)
    target = store(runs)
    for step in (1, 2, 3):
        save(target, step)
    assert sorted(p.name for p in (runs / "attempt-1").glob("step-0*")) == ["step-00000002", "step-00000003"]
    assert (found := target.newest()) is not None
    assert found[0].step == 3


def test_a_checkpoint_is_found_by_its_digest_among_several_of_one_step(tmp_path: Path) -> None:
    for attempt, value in ((1, 1.0), (2, 2.0)):
        target = store(tmp_path, attempt)
        target.save(State(step=5), {"adapter": torch.full((5,), value)})
        target.wait()
    first = store(tmp_path, 1).newest()
    assert first is not None
    found = store(tmp_path, 2).at(5, first[0].sha256)
    assert found is not None
    assert found[1]["adapter"].tolist() == [1.0] * 5


def test_an_attempt_reads_earlier_ones_and_no_later_one(tmp_path: Path) -> None:
    save(store(tmp_path, 1), 4)
    save(store(tmp_path, 3), 9)
    found = store(tmp_path, 2).newest()
    assert found is not None
    assert found[0].step == 4


def test_another_configurations_checkpoints_are_not_taken(tmp_path: Path) -> None:
    save(store(tmp_path), 4)
    assert Store(f"file://{tmp_path}", 1, "other", 2).newest() is None


def test_a_failed_write_is_raised_at_the_next_save(tmp_path: Path) -> None:
    (tmp_path / "attempt-1").write_text("a file where the folder must be")
    with pytest.raises(TryAgain, match="attempt-1 cannot be written"):
        save(store(tmp_path), 1)


def test_the_bytes_are_those_of_a_synchronous_save(tmp_path: Path) -> None:
    live, folder = {"adapter": torch.randn(1000), "step": torch.tensor(7.0)}, tmp_path / "a" / "attempt-1"
    target, state = store(tmp_path / "a"), State(step=7, losses=[0.1, 2.0])
    target.save(state, live)
    target.wait()
    checkpoint.write(f"file://{tmp_path}/b", State(step=7, losses=[0.1, 2.0], run="run"), live)
    for name in ("state.json", "state.safetensors"):
        assert (folder / "step-00000007" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_tensors_that_change_once_they_are_staged_do_not_reach_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed, write = threading.Event(), checkpoint.write

    def late(*arguments: Any) -> None:
        assert changed.wait(20)
        write(*arguments)

    monkeypatch.setattr(checkpoint, "write", late)
    target, live = store(tmp_path), {"adapter": torch.ones(5)}
    target.save(State(step=1), live)
    target.staged()
    live["adapter"].zero_()
    changed.set()
    target.wait()
    assert (found := target.newest()) is not None
    assert found[1]["adapter"].tolist() == [1.0] * 5


def test_staged_waits_for_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    may_copy, copy = threading.Event(), Staging.copy

    def late(*arguments: Any) -> Any:
        assert may_copy.wait(20)
        told.append("copied")
        return copy(*arguments)

    monkeypatch.setattr(Staging, "copy", late)
    target = store(tmp_path)
    target.save(State(step=1), {"adapter": torch.ones(5)})
    waiting = threading.Thread(target=lambda: (target.staged(), told.append("staged")))
    waiting.start()
    may_copy.set()
    waiting.join()
    assert told == ["copied", "staged"]


def test_what_the_loop_waits_for_is_done_at_its_priority_and_the_rest_below_every_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    found, ours = dict[str, int](), priority()
    for owner, name in ((Staging, "copy"), (checkpoint, "write")):
        monkeypatch.setattr(owner, name, lambda *_, name=name: found.update({name: priority()}))
    save(store(tmp_path), 1)
    assert found == {"copy": ours, "write": 19}
    assert priority() == ours


def test_a_save_waits_for_the_one_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    second, write = threading.Event(), checkpoint.write

    def noted(uri: str, state: State, tensors: Any) -> None:
        told.append(f"begin {state.step}")
        (second.set if state.step == 2 else lambda: second.wait(0.3))()
        write(uri, state, tensors)
        told.append(f"end {state.step}")

    monkeypatch.setattr(checkpoint, "write", noted)
    target = store(tmp_path)
    for step in (1, 2):
        target.save(State(step=step), {"adapter": torch.full((5,), float(step))})
    target.wait()
    assert told == ["begin 1", "end 1", "begin 2", "end 2"]
    assert [found[1]["adapter"][0] for n in (1, 2) if (found := target.at(n))] == [1.0, 2.0]


def test_staging_buffers_are_kept_until_a_shape_changes() -> None:
    staging = Staging()
    places = []
    for size in (5, 5, 7):
        live = {"adapter": torch.ones(size)}
        copied = staging.copy(live, staging.mark(live))
        places.append((copied["adapter"].data_ptr(), copied["adapter"].shape[0]))
    assert places[0] == places[1]
    assert places[2] != places[1]


def test_a_copy_that_fails_lets_the_loop_on_and_is_raised_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise MemoryError("no room to copy to")

    monkeypatch.setattr(Staging, "copy", fails)
    target = store(tmp_path)
    target.save(State(step=1), {"adapter": torch.ones(5)})
    with pytest.raises(MemoryError):
        target.staged()  # where it is still too early for its words, the next save has them
        target.save(State(step=2), {"adapter": torch.ones(5)})


def test_a_checkpoint_that_fails_is_heard_of_at_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write", fails)
    target = store(tmp_path)
    target.save(State(step=1), {"adapter": torch.ones(5)})
    assert target._writer is not None
    target._writer.join()
    with pytest.raises(TryAgain, match="attempt-1 cannot be written: .*No space left"):
        target.staged()


def test_the_ledger_is_written_before_the_checkpoint_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = tmp_path / "attempt-1" / "ledger" / "step-00000002.jsonl"
    seen: list[bool] = []
    monkeypatch.setattr(checkpoint, "write", lambda *_: seen.append(part.exists()))
    target = store(tmp_path)
    target.save(State(step=2), {"adapter": torch.ones(5)}, ['{"step": 1}', '{"step": 2}'])
    target.wait()
    assert seen == [True]
    assert part.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_ledger_that_cannot_be_written_does_not_hide_why_the_run_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "attempt-1").write_text("a file where the folder must be")
    store(tmp_path).close(['{"step": 1}'])
    assert "last 1 lines are lost" in capsys.readouterr().err


def test_closing_lets_the_save_in_flight_end_and_hides_no_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closing, write, told = threading.Event(), checkpoint.write, list[bool]()

    def late(uri: str, state: State, tensors: Any) -> None:
        assert closing.wait(20)
        if state.step == 2:
            raise OSError("no room")
        write(uri, state, tensors)

    monkeypatch.setattr(checkpoint, "write", late)
    target = Store(f"file://{tmp_path}", 1, "run", 2, tell=told.append)
    for step in (1, 2):
        closing.clear()
        target.save(State(step=step), {"adapter": torch.ones(5)})
        assert told[-1]
        threading.Timer(0.1, closing.set).start()
        target.close([])
        assert not told[-1]
    assert [target.at(step) is not None for step in (1, 2)] == [True, False]
    told_last = f"the last checkpoint is lost: file://{tmp_path}/attempt-1 cannot be written: no room\n"
    assert capsys.readouterr().err == told_last


def test_a_finished_run_keeps_its_last_attempt_the_best_and_what_people_read(tmp_path: Path) -> None:
    for attempt, steps in ((1, (2, 4)), (2, (6, 8)), (3, (10,))):
        for step in steps:
            save(store(tmp_path, attempt), step, best=step)
        folder = tmp_path / f"attempt-{attempt}"
        (folder / f".step-0000000{attempt}.77").mkdir()
        for name in ("ledger", "stacks", "step-notes"):
            (folder / name).mkdir()
    (tmp_path / "tensorboard").mkdir()
    store(tmp_path, 3).retire(best=4)
    left = {p.name: sorted(q.name for q in p.iterdir()) for p in tmp_path.iterdir()}
    kept = ["ledger", "stacks", "step-notes"]
    assert left == {
        "attempt-1": sorted([*kept, "step-00000004"]),
        "attempt-2": kept,
        "attempt-3": sorted([*kept, ".step-00000003.77", "step-00000010"]),
        "tensorboard": [],
    }
    assert store(tmp_path, 3).at(4) is not None


def test_what_the_loop_waited_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Staging.copy
    monkeypatch.setattr(Staging, "copy", lambda *arguments: (time.sleep(0.2), copy(*arguments))[1])
    target = store(tmp_path)
    target.save(State(step=1), {"adapter": torch.ones(5)})
    target.staged()
    target.wait()
    assert 0.1 < target.waited < 20


def test_a_store_of_objects_keeps_checkpoints_too() -> None:
    target = Store("memory://bucket/runs", 1, "run", 1)
    try:
        for step in (1, 2, 3):
            save(target, step, best=1)
        found = target.newest()
        assert found is not None
        assert (found[0].step, found[1]["adapter"].tolist()) == (3, [3.0] * 5)
        assert target.at(1) is not None
        assert target.at(2) is None
    finally:
        filesystem, path = resolve("memory://bucket")
        filesystem.rm(path, recursive=True)


def test_checkpoints_by_the_clock_are_due_once_each_interval() -> None:
    times = iter([0.0, 59.0, 60.0, 61.0, 119.9, 300.0, 301.0])
    timer = Timer(1, lambda: next(times))
    assert [timer.due() for _ in range(6)] == [False, True, False, False, True, False]
    assert not Timer(None, lambda: 1e9).due()
