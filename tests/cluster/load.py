"""Load on an endpoint from a pod beside it, and what became of every stream."""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.kube import Kube

PROGRAM = Path(__file__).with_name("load_in_pod.py").read_text()


@dataclass
class Stream:
    """One answer, by Unix time."""

    asked: float = 0.0
    first: float = 0.0
    ended: float = 0.0
    error: str = ""


class Load:
    """Streams that run until `stop`."""

    def __init__(self, team: Kube, model: str, streams: int, tokens: int) -> None:
        self._team = team
        self.streams: dict[int, Stream] = {}
        command = ["kubectl", "-n", team.namespace, "exec", "-i", "client", "--", "python3", "-c", PROGRAM]
        arguments = [f"http://{model}.{team.namespace}.svc", model, str(streams), str(tokens)]
        self._process = subprocess.Popen(
            [*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            stream = self.streams.setdefault(told.pop("stream"), Stream())
            for name, value in told.items():
                setattr(stream, name, value)

    def running(self, moment: float) -> list[Stream]:
        """Return the streams that had begun to answer at a moment, and had not ended."""
        known = list(self.streams.values())
        return [s for s in known if 0 < s.first <= moment and (not s.ended or s.ended > moment)]

    def wait(self, count: int, seconds: float = 60) -> float:
        """Return the moment at which `count` streams run that began a while ago and none of which is about to end."""
        deadline = time.monotonic() + seconds
        while len(self.running(time.time())) < count:
            assert time.monotonic() < deadline, f"{self.running(time.time())}\n{self._team.story()}"
            time.sleep(0.2)
        return time.time()

    @property
    def began(self) -> float:
        """The moment at which the first stream was asked for."""
        return min(stream.asked for stream in self.streams.values())

    def stop(self) -> None:
        """Let what runs end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        code = self._process.wait(300)
        self._reader.join(10)
        self._process.stdout.close()
        assert code == 0

    @property
    def failed(self) -> list[str]:
        """What went wrong, stream by stream."""
        return [s.error for s in self.streams.values() if s.error]


def shortest(streams: list[Stream]) -> float:
    """Return the shortest time that an answer took from its first token, of those that came to their end."""
    return min(s.ended - s.first for s in streams if not s.error)


@contextmanager
def load(team: Kube, model: str, streams: int, tokens: int) -> Iterator[Load]:
    """Keep an endpoint busy; on leaving, all streams have ended."""
    made = Load(team, model, streams, tokens)
    try:
        yield made
    finally:
        made.stop()
