"""The container's memory, whichever files its kernel has."""

from pathlib import Path

import pytest

from anneal_trainers.pod import cgroup


def test_the_files_there_are_are_told_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    assert cgroup.memory() == ""
    (tmp_path / "memory.events").write_text("oom 1\noom_kill 2\n")
    (tmp_path / "memory.peak").write_text("4096\n")
    assert cgroup.memory() == "memory.events oom 1\nmemory.events oom_kill 2\nmemory.peak 4096\n"
