"""From a rank to its launcher: JSON lines through a pipe, one a heartbeat, one a step, one at the end."""

import json
import os
from typing import Any

ENV_CHANNEL = "ANNEAL_CHANNEL"
"""File descriptor of the pipe's writing end."""


class Channel:
    """The writing end; without a launcher, lines go nowhere."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    @classmethod
    def from_environment(cls) -> "Channel":
        """Return the channel the launcher opened for this process."""
        number = os.environ.get(ENV_CHANNEL)
        return cls(None if number is None else int(number))

    def beat(self, phase: str, batch: str = "") -> None:
        """Say that this rank is alive and what it does next, and with which micro-batch."""
        self.send({"phase": phase, "batch": batch})

    def send(self, message: dict[str, Any]) -> None:
        """Send one message (below 4 KiB, so that it is written in one piece)."""
        if self._descriptor is not None:
            os.write(self._descriptor, json.dumps(message).encode() + b"\n")
