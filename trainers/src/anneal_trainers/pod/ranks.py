"""A rank process as its launcher sees it: what was last heard of it, and when its silence counts as a hang."""

import json
import math
import statistics
import subprocess
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from anneal_api.outcome import Outcome
from anneal_trainers.pod.output import Tail

SLOW_PHASES = ("save", "publish")
"""Phases of a rank that wait for storage: gigabytes may be written, hashed and read back in silence."""
STRANDED_SECONDS = 10.0
"""How long a rank that was told to end may wait for its peers at least; twice a step where steps take longer."""
RECENT_STEPS = 100
"""Steps whose median says how long one takes."""
RECENT_BEATS = 100
"""Messages kept for the records of an attempt that fails."""


@dataclass
class Rank:
    """One rank process and what was last heard of it."""

    number: int
    """In this pod."""
    overall: int
    """In the whole group."""
    process: subprocess.Popen[bytes]
    output: Tail = field(default_factory=Tail)
    readers: list[threading.Thread] = field(default_factory=list)
    heard: float = field(default_factory=time.monotonic)
    phase: str = "start"
    batch: str = ""
    """The micro-batch it computes, where it does."""
    writing: bool = False
    """Whether a checkpoint is being written beside what it computes."""
    step: int = 0
    """The last one finished, as it says."""
    checkpoint: int | None = None
    """Step of the newest checkpoint it knows to be whole."""
    progress: dict[str, Any] | None = None
    figures: dict[str, float] = field(default_factory=dict)
    outcome: Outcome | None = None
    steps: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_STEPS))
    beats: deque[tuple[float, dict[str, Any]]] = field(default_factory=lambda: deque(maxlen=RECENT_BEATS))
    """When each of the last messages came, and where the rank then was."""
    stepped: float | None = None

    @property
    def code(self) -> int | None:
        """Its exit code, negative after a signal; None while it lives."""
        return self.process.poll()

    def hear(self, message: dict[str, Any], now: float) -> None:
        """Take in one message."""
        self.heard = now
        self.phase, self.batch = message.get("phase", self.phase), message.get("batch", self.batch)
        self.figures = message.get("figures", self.figures)
        self.writing = message.get("writing", self.writing)
        self.checkpoint = message.get("checkpoint", self.checkpoint)
        if "outcome" in message:
            self.outcome = Outcome.model_validate(message["outcome"])
        if "progress" in message:
            self._advance(message["progress"], now)
        self.beats.append((now, self._place()))

    def _advance(self, progress: dict[str, Any], now: float) -> None:
        if self.stepped is not None:
            self.steps.append(now - self.stepped)
        self.stepped, self.progress, self.step = now, progress, progress["step"]
        if self.number == 0:
            print(json.dumps(self.progress), flush=True)  # the pod's log

    def _place(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "phase": self.phase,
            "batch": self.batch,
            "writing": self.writing,
            "checkpoint": self.checkpoint,
        }

    def strands(self, now: float) -> bool:
        """Whether it waits for a peer for so long that it will not get to save: one is gone without a word."""
        usual = max(STRANDED_SECONDS, 2 * statistics.median(self.steps or [0.0]))
        return self.phase == "reduce" and not self.writing and now - self.heard > usual


@dataclass(frozen=True)
class Limits:
    """When silence counts as a hang, and how long after SIGTERM ranks may take to end, in seconds."""

    start: float
    hang: float | None
    stop: float = math.inf

    def of(self, rank: Rank) -> float:
        """Return how long `rank` may be silent now."""
        usual = self.hang or max(60.0, 5 * statistics.median(rank.steps or [0.0]))
        working = rank.progress is not None and rank.phase not in SLOW_PHASES
        return usual if working else max(self.start, usual)
