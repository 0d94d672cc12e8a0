"""What a program may leave behind: nothing."""

import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from anneal_evaluation.sandbox import forkserver

_ADOPTS_ORPHANS = 36
"""The option PR_SET_CHILD_SUBREAPER of prctl."""


@dataclass(frozen=True)
class Machine:
    """What programs are judged on: an empty folder for scratch folders, and a file that is somebody's."""

    scratch: Path
    victim: Path
    mark: str
    """The name of whatever spoilers make."""

    @property
    def places(self) -> list[str]:
        """Folders in which this user, as whom programs run, may write, and some of the system's."""
        own = (self.victim.parent, Path.cwd(), Path.home(), Path(__file__).parent, Path(sys.prefix))
        return sorted({*map(str, own), "/", "/dev/shm", "/etc", "/tmp", "/var/tmp"})


def _processes() -> dict[int, tuple[int, str]]:
    """Return the parent and the state of every process of the machine."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        found[int(folder.name)] = int(parent), state
    return found


def _begun_here() -> set[int]:
    """Return what runs of all that was ever started below this process: as it adopts orphans, none has another parent."""
    known, below = _processes(), {os.getpid()}
    while more := {one for one, (parent, _) in known.items() if parent in below} - below:
        below |= more
    return {one for one in below if known[one][1] not in "ZX" and not _waits_for_samples(one, known[one][0])}


def _waits_for_samples(process: int, parent: int) -> bool:
    """Whether a process is the one that outlives samples, and none of its forks."""
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False
    return forkserver.__name__.encode() in command and parent == os.getpid()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """The machine, of which no process and no file is another one after the test than before it."""
    made = Machine(tmp_path / "scratch", tmp_path / "victim" / "file", f"spoiled-{os.urandom(8).hex()}")
    made.scratch.mkdir()
    made.victim.parent.mkdir()
    made.victim.write_text("whole\n")
    monkeypatch.setattr(tempfile, "tempdir", str(made.scratch))
    process = ctypes.CDLL(None)
    assert process.prctl(_ADOPTS_ORPHANS, 1, 0, 0, 0) == 0
    running, state = _begun_here(), made.victim.stat()
    try:
        yield made
        assert _begun_here() <= running
    finally:
        process.prctl(_ADOPTS_ORPHANS, 0, 0, 0, 0)
    assert list(made.scratch.iterdir()) == []
    assert (made.victim.stat(), made.victim.read_text()) == (state, "whole\n")
    assert os.listdir(made.victim.parent) == [made.victim.name]
    left = [Path(place, made.mark) for place in made.places if made.mark in os.listdir(place)]
    for path in left:
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    assert left == []
