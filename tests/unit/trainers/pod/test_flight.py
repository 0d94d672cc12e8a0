"""The flight recorder: asked through its pipe, waited for a bounded time, and torch's own of gloo."""

import os
import threading
from pathlib import Path

import pytest

from anneal_trainers.pod import flight


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_FR_DUMP_TEMP_FILE", f"{tmp_path}/record-")
    monkeypatch.setenv("TORCH_NCCL_DEBUG_INFO_PIPE_FILE", f"{tmp_path}/pipe-")
    return tmp_path


def recorder(folder: Path, rank: int, *parts: bytes) -> threading.Thread:
    """Listen as NCCL's monitor does; write the parts of a record when asked."""
    os.mkfifo(folder / f"pipe-{rank}.pipe")
    reading = os.open(folder / f"pipe-{rank}.pipe", os.O_RDONLY | os.O_NONBLOCK)

    def listen() -> None:
        os.set_blocking(reading, True)
        while not os.read(reading, 1):
            continue
        with (folder / f"record-{rank}").open("wb") as stream:
            for part in parts:
                stream.write(part)
                stream.flush()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    return thread


def test_a_record_is_taken_when_it_is_whole_and_none_of_earlier(places: Path) -> None:
    (places / "record-3").write_bytes(b"of an earlier attempt.")
    thread = recorder(places, 3, b"begun", b" and ended.")
    assert flight.collect([3], 20.0) == {3: b"begun and ended."}
    thread.join()


def test_nobody_waits_where_no_recorder_listens(places: Path) -> None:
    os.mkfifo(places / "pipe-1.pipe")
    assert flight.collect([0, 1], 1e9) == {}


def test_a_recorder_that_does_not_answer_is_waited_for_a_bounded_time(places: Path) -> None:
    thread = recorder(places, 0, b"never whole")
    assert flight.collect([0], 0.2) == {}
    thread.join()


def test_without_pipes_nothing_is_asked_or_answered(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_NCCL_DEBUG_INFO_PIPE_FILE")
    flight.answer(0)
    assert flight.collect([0], 1e9) == {}
    assert [*places.iterdir()] == []
