"""Judges apart from the pod's work: at a socket, in a process whose environment has nothing of the caller's."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from anneal_api.runs import ENV_JUDGES
from anneal_evaluation import judges, judging
from anneal_evaluation.judges import Apart
from anneal_evaluation.judging import Case, Here
from anneal_runtime.errors import Refused

RIGHT = Case("python", "def f(x): return x + 1", "assert f(1) == 2", ("f",))
SOURCES = [str(Path(module.__file__ or "").parents[1]) for module in (judging, sys.modules["anneal_runtime"])]


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[Apart]:
    with judging.Server(tmp_path / "python") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Apart(frozenset({"python"}), tmp_path, start_seconds=0)
        server.shutdown()
        thread.join()


def test_a_judge_at_a_socket_says_what_the_sandbox_here_does(apart: Apart) -> None:
    wrong = Case("python", "def f(x): return x", RIGHT.tests, RIGHT.asked)
    assert [apart.judge(case).state for case in (RIGHT, wrong)] == ["passed", "failed"]
    assert Here().judge(wrong).detail == apart.judge(wrong).detail


def test_what_a_judge_refuses_is_told_to_whoever_asked(apart: Apart) -> None:
    os.link(apart.folder / "python", apart.folder / "cobol")
    with pytest.raises(Refused, match="programs in cobol cannot be run"):
        apart.judge(Case("cobol", "", ""))


def test_a_language_without_a_judge_is_refused_with_the_value_that_adds_one(apart: Apart) -> None:
    apart.check(["python"])
    with pytest.raises(
        Refused, match=r"programs in go cannot be judged .* set the chart's images\.sandboxes\.go"
    ):
        apart.check(["go", "python"])


def test_a_judge_that_is_away_counts_neither_way(apart: Apart) -> None:
    found = apart.judge(Case("java", "", ""))
    assert (found.state, "judge of java is away" in found.detail) == ("error", True)


def test_the_operator_says_who_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(judges.chosen(), Here)
    monkeypatch.setenv(ENV_JUDGES, "go,python")
    assert judges.chosen() == Apart(frozenset({"go", "python"}))


@pytest.mark.slow
def test_a_judge_needs_the_standard_library_alone_and_holds_no_key(tmp_path: Path) -> None:
    place = tmp_path / "python"
    clean = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(SOURCES)}
    command = [sys.executable, "-S", "-m", "anneal_evaluation.judging", "python", str(place)]
    with subprocess.Popen(command, env=clean) as process:
        try:
            found = Apart(frozenset({"python"}), tmp_path).judge(RIGHT)
        finally:
            process.terminate()
    assert found.passed, found
    assert (
        process.returncode == 0
    )  # by its own handler: as a container's first process it would not be ended otherwise
