"""Records of an attempt: which there are, in which order, and what a store can do to them."""

import json
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from anneal_runtime.storage import resolve
from anneal_trainers.pod import attempt_records
from anneal_trainers.pod.ranks import RECENT_BEATS, Rank


@pytest.fixture
def rank() -> Rank:
    ended = Rank(1, 9, subprocess.Popen(["true"]))
    ended.process.wait()
    return ended


def test_files_are_named_by_pod_and_rank_of_the_group_what_says_most_first(rank: Rank) -> None:
    rank.output.add(b"printed\n")
    dumps = attempt_records.Dumps(stacks={9: b"stacks"}, flights={9: b"flight"})
    found = attempt_records.files("pod-1", [rank], dumps, "4096", 0.0)
    assert [*found.items()] == [
        ("logs/pod-1-rank-9.log", b"printed\n"),
        ("stacks/pod-1-rank-9.stacks", b"stacks"),
        ("heartbeats/pod-1-rank-9.jsonl", b""),
        ("memory/pod-1.txt", b"4096"),
        ("flight/pod-1-rank-9", b"flight"),
    ]


def test_heartbeats_are_the_last_ones_with_their_time_and_step(rank: Rank) -> None:
    for step in range(RECENT_BEATS + 5):
        rank.hear({"phase": "compute", "progress": {"step": step}}, float(step))
    lines = [json.loads(line) for line in attempt_records.heartbeats(rank, 1_000_000_000.0).splitlines()]
    assert [line["step"] for line in lines] == [*range(5, RECENT_BEATS + 5)]
    assert lines[0]["time"] == "2001-09-09T01:46:45.000+00:00"
    assert lines[0]["phase"] == "compute"


def test_what_a_store_refuses_is_told_and_the_rest_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    filesystem = resolve(f"file://{tmp_path}")[0]
    write = filesystem.pipe_file

    def full(path: str, content: bytes) -> None:
        if "flight" in path:
            raise OSError("no space left")
        write(path, content)

    monkeypatch.setattr(filesystem, "pipe_file", full)
    folder = f"file://{tmp_path}/attempt-1"
    attempt_records.store(folder, {"logs/a": b"log", "flight/a": b"much", "memory/a": b"4096"}, 10.0)
    assert (tmp_path / "attempt-1/logs/a").read_bytes() == b"log"
    assert (tmp_path / "attempt-1/memory/a").read_bytes() == b"4096"
    assert capsys.readouterr().err == f"2 of 3 records are in {folder}: no space left\n"


def test_a_store_that_never_answers_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answered = threading.Event()

    def never(path: str, content: bytes) -> None:
        answered.wait(60)

    filesystem: Any = resolve(f"file://{tmp_path}")[0]
    monkeypatch.setattr(filesystem, "pipe_file", never)
    attempt_records.store(f"file://{tmp_path}", {f"logs/{n}": b"" for n in range(20)}, 0.05)
    told = capsys.readouterr().err
    answered.set()
    assert told == f"0 of 20 records are in file://{tmp_path}: the store did not take the rest within 0 s\n"
