"""Witnesses of what happens on the nodes: processes, logs and watches, by the one clock of the machine they all are on."""

import json
import os
import re
import select
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tests.cluster.kube import Json, Kube


def processes(pod: Json, words: bytes) -> list[int]:
    """Return the processes of a pod whose command line holds `words`, oldest first."""
    uid, found = pod["metadata"]["uid"].replace("-", "_"), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            inside = (folder / "cgroup").read_text().replace("-", "_")
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if uid in inside and words in command:
            found.append(int(folder.name))
    return sorted(found)


class Ending:
    """When a process ends, seen by this machine's kernel."""

    def __init__(self, pid: int) -> None:
        self.at: float | None = None
        self._file = os.pidfd_open(pid)
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        select.select([self._file], [], [])
        self.at = time.time()
        os.close(self._file)


@dataclass(frozen=True)
class Step:
    """A step that a pod has told of."""

    at: float
    number: int
    saved: int


class Steps:
    """What a pod's log says of its steps, as it grows; what was heard outlives the pod."""

    def __init__(self, team: Kube, pod: Json) -> None:
        self.heard: list[Step] = []
        command = ["kubectl", "-n", team.namespace, "logs", "-f", "--timestamps", pod["metadata"]["name"]]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if (step := _step(line)) is not None:
                self.heard.append(step)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


def heard(team: Kube, pod: Json) -> list[Step]:
    """Return the steps in a pod's log as it stands."""
    text = team.run("logs", "--timestamps", pod["metadata"]["name"])
    return [step for line in text.splitlines() if (step := _step(line))]


def _step(line: str) -> Step | None:
    stamp, _, text = line.partition(" ")
    if not text.startswith('{"step"'):
        return None
    told = json.loads(text)
    return Step(epoch(stamp), told["step"], told["latestCheckpoint"] or 0)


def epoch(stamp: str) -> float:
    """Return a timestamp of a pod's log in Unix seconds."""
    # Kubelets write nanoseconds, which datetime does not know.
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", stamp).replace("Z", "+00:00")).timestamp()


class Watch:
    """What the API server tells of objects, and when. It goes on after the API server was away."""

    def __init__(self, path: str) -> None:
        self.seen: list[tuple[float, Json]] = []
        self._command = ["kubectl", "get", "--raw", f"{path}?watch=true"]
        self._closed = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._closed.is_set():
            with subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            ) as process:
                self._process = process
                assert process.stdout is not None
                for line in process.stdout:
                    self.seen.append((time.time(), json.loads(line)))
            self._closed.wait(0.2)

    def first(self, matches: Callable[[Json], bool], since: float = 0.0) -> float | None:
        """Return when the first event was told, from a moment on, whose object matches."""
        return next((at for at, event in self.seen if at >= since and matches(event)), None)

    def close(self) -> None:
        self._closed.set()
        if self._process is not None:
            self._process.kill()
        self._thread.join()
