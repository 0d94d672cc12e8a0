"""A rank process as its launcher sees it: what was last heard of it, and when its silence counts as a hang."""

import json
import statistics
import subprocess
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anneal_api.outcome import Outcome

SLOW_PHASES = ("save", "publish")
"""Phases of a rank that wait for storage: gigabytes may be written, hashed and read back in silence."""
STRANDED_SECONDS = 10.0
"""How long a rank that was told to end may wait for its peers at least; twice a step where steps take longer."""
RECENT_STEPS = 100
"""Steps whose median says how long one takes."""


@dataclass
class Rank:
    """One rank process and what was last heard of it."""

    number: int
    process: subprocess.Popen[bytes]
    stderr: Path
    heard: float = field(default_factory=time.monotonic)
    phase: str = "start"
    batch: str = ""
    """The micro-batch it computes, where it does."""
    writing: bool = False
    """Whether a checkpoint is being written beside what it computes."""
    progress: dict[str, Any] | None = None
    figures: dict[str, float] = field(default_factory=dict)
    outcome: Outcome | None = None
    steps: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_STEPS))
    stepped: float | None = None

    def hear(self, message: dict[str, Any], now: float) -> None:
        """Take in one message."""
        self.heard = now
        self.phase, self.batch = message.get("phase", self.phase), message.get("batch", self.batch)
        self.figures = message.get("figures", self.figures)
        self.writing = message.get("writing", self.writing)
        if "outcome" in message:
            self.outcome = Outcome.model_validate(message["outcome"])
        if "progress" in message:
            if self.stepped is not None:
                self.steps.append(now - self.stepped)
            self.stepped, self.progress = now, message["progress"]
            if self.number == 0:
                print(json.dumps(self.progress), flush=True)  # the pod's log

    def strands(self, now: float) -> bool:
        """Whether it waits for a peer for so long that it will not get to save: one is gone without a word."""
        usual = max(STRANDED_SECONDS, 2 * statistics.median(self.steps or [0.0]))
        return self.phase == "reduce" and not self.writing and now - self.heard > usual


@dataclass(frozen=True)
class Limits:
    """When silence counts as a hang, in seconds."""

    start: float
    hang: float | None

    def of(self, rank: Rank) -> float:
        """Return how long `rank` may be silent now."""
        usual = self.hang or max(60.0, 5 * statistics.median(rank.steps or [0.0]))
        working = rank.progress is not None and rank.phase not in SLOW_PHASES
        return usual if working else max(self.start, usual)
