"""A problem, whatever suite it is of, and the two ways a model is asked."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Task = Literal["code", "infill", "line", "text", "defect"]
"""code: tests decide; infill: the exact middle; line: edit similarity; text: BLEU-4; defect: yes or no, F1."""


@dataclass(frozen=True)
class Problem:
    """One problem."""

    name: str
    task: Task
    prompt: str
    """What the answer goes on from, or answers."""
    language: str = "python"
    suffix: str = ""
    """infill: what stands behind the answer."""
    statement: str = ""
    """What is wanted, in words, where the prompt is no code to go on from."""
    wanted: str = ""
    """The reference answer; code: a solution that passes, empty where the suite has none."""
    entry_point: str = ""
    tests: str = ""
    trusted: str = ""
    """Python: code of the problem's own that its tests build on."""
    asked: tuple[str, ...] = ()
    """Python: names in the tests that are the answer's."""
    stops: tuple[str, ...] = ()


def judged(problems: Iterable[Problem]) -> list[str]:
    """Return the languages whose programs are run to judge the answers."""
    return sorted({problem.language for problem in problems if problem.task == "code"})


@dataclass(frozen=True)
class Ask:
    """What a model is asked: a chat, or what stands between two texts."""

    messages: tuple[tuple[str, str], ...] = ()
    """Pairs of role and text."""
    prefix: str = ""
    suffix: str | None = None
    """Unset: go on from `prefix`."""
    stops: tuple[str, ...] = ()
