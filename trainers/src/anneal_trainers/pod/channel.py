"""From a rank to its launcher: JSON lines through a pipe, one a heartbeat, one a step, one at the end."""

import json
import os
import threading
from collections.abc import Sequence
from typing import Any

ENV_CHANNEL = "ANNEAL_CHANNEL"
"""File descriptor of the pipe's writing end."""


class Channel:
    """The writing end; without a launcher, lines go nowhere. It remembers where the rank is, for its last words."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._step: int | None = None
        self.phase = "start"
        self.batch = ""
        """The micro-batch in progress, for a person; empty outside of any."""

    @classmethod
    def from_environment(cls) -> "Channel":
        """Return the channel the launcher opened for this process."""
        number = os.environ.get(ENV_CHANNEL)
        return cls(None if number is None else int(number))

    def beat(self, phase: str, *, step: int | None = None, shape: Sequence[int] = ()) -> None:
        """Say that this rank is alive and what it does next.

        Args:
            phase: what it does.
            step: the step it begins; later beats are of the same one.
            shape: of the micro-batch it begins: sequences (packs, or padded rows) x positions.
        """
        self.phase, self._step = phase, self._step if step is None else step
        self.batch = f"{shape[0]} x {shape[1]} positions in step {self._step}" if shape else ""
        self.send({"phase": phase, "batch": self.batch})

    def send(self, message: dict[str, Any]) -> None:
        """Send one message of any length: only this process writes into the pipe, one thread at a time."""
        if self._descriptor is None:
            return
        with self._lock:
            rest = json.dumps(message).encode() + b"\n"
            while rest:  # a signal may end a write of more than the pipe has room for
                rest = rest[os.write(self._descriptor, rest) :]
