"""The ledger's parts, and which attempt's word counts for a step that was taken twice."""

from pathlib import Path

import pytest

from anneal_runtime.storage import resolve
from anneal_trainers.records import ledger
from anneal_trainers.records.ledger import Entry, Ledger


def entry(step: int, attempt: int = 1, loss: float = 1.0) -> Entry:
    return Entry(
        step=step,
        stage=0,
        learning_rate=1e-3,
        loss=loss,
        gradient_norm=0.1 + 0.2,
        finite=True,
        task_losses={"a": loss},
        rows=["00ff"],
        attempt=attempt,
        world=2,
    )


def record(runs: str, attempt: int, *parts: range) -> None:
    """Write the steps of `parts` as an attempt does, each part with its last step."""
    book = Ledger()
    for part in parts:
        for step in part:
            book.append(entry(step, attempt))
        ledger.write(f"{runs}/attempt-{attempt}", book.take())


def line(runs: str) -> list[tuple[int, int]]:
    return [(found.step, found.attempt) for found in ledger.read(runs)]


@pytest.mark.parametrize("store", ["file", "memory"])
def test_what_is_recorded_is_read_back_bit_for_bit(tmp_path: Path, store: str) -> None:
    runs = f"{store}://{tmp_path}/runs"
    book, entries = Ledger(), [entry(1, loss=1 / 3), entry(2, loss=float("inf"))]
    for one in entries:
        book.append(one)
    try:
        ledger.write(f"{runs}/attempt-1", book.take())
        ledger.write(f"{runs}/attempt-1", book.take())
        assert ledger.read(runs) == entries
    finally:
        filesystem, path = resolve(runs)
        filesystem.rm(path, recursive=True)


def test_parts_are_named_by_their_last_step(tmp_path: Path) -> None:
    record(f"file://{tmp_path}", 1, range(1, 5), range(5, 7))
    names = sorted(path.name for path in (tmp_path / "attempt-1" / "ledger").iterdir())
    assert names == ["step-00000004.jsonl", "step-00000006.jsonl"]


def test_an_attempt_counts_up_to_where_a_later_one_began(tmp_path: Path) -> None:
    runs = f"file://{tmp_path}"
    record(runs, 1, range(1, 5), range(5, 9))  # preempted after 8, but the checkpoint of 8 was damaged
    record(runs, 2, range(5, 7))  # went on from 4, and ended early
    record(runs, 3, range(5, 6))  # so did this one
    assert line(runs) == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 3)]


def test_an_attempt_that_took_no_step_changes_nothing(tmp_path: Path) -> None:
    runs = f"file://{tmp_path}"
    record(runs, 2, range(1, 3))
    record(runs, 10, range(3, 4))  # tenth is after second, whatever the letters say
    (tmp_path / "attempt-11" / "ledger").mkdir(parents=True)
    (tmp_path / "attempt-12").mkdir()
    (tmp_path / "tensorboard").mkdir()
    assert line(runs) == [(1, 2), (2, 2), (3, 10)]


def test_a_run_that_left_nothing_has_an_empty_ledger(tmp_path: Path) -> None:
    assert ledger.read(f"file://{tmp_path}/none") == []
