"""What all drivers share: a job on a line of their input, what became of it on a line of their output.

A driver is a process of its own, so that what is measured does not share an interpreter with what measures.
"""

import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Job:
    """Prompts of token ids, `tokens` to be generated for each, so many streams at once."""

    prompts: list[list[int]]
    tokens: int
    streams: int


@dataclass(frozen=True)
class Answer:
    """One answer, by the driver's clock: when it was asked for, when tokens came, and how many in all."""

    sent: float
    times: list[float]
    tokens: int

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.times[0] - self.sent

    @property
    def whole(self) -> float:
        """Seconds to the last token."""
        return self.times[-1] - self.sent

    @property
    def gaps(self) -> list[float]:
        """Seconds between arrivals of tokens."""
        return [after - before for before, after in itertools.pairwise(self.times)]


def run_jobs(run: Callable[[Job], list[Answer]]) -> None:
    """Run the jobs of standard input until it ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        answers = run(Job(**json.loads(line)))
        print(json.dumps([asdict(answer) for answer in answers]), flush=True)


def parse(line: str) -> list[Answer]:
    """Return the answers that a driver printed."""
    return [Answer(**answer) for answer in json.loads(line)]


def rate(answers: list[Answer]) -> float:
    """Return tokens a second from the first request to the last token."""
    began, ended = min(a.sent for a in answers), max(a.times[-1] for a in answers)
    return sum(answer.tokens for answer in answers) / (ended - began)
