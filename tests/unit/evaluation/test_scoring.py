"""Whole suites against models that are written down here."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from anneal_evaluation import comparison, report, scoring, telemetry
from anneal_evaluation.judging import Here
from anneal_evaluation.results import Settings, SuiteResult
from anneal_evaluation.scoring import Request
from anneal_evaluation.suites import files
from anneal_runtime.errors import Refused

ROWS = [
    {"task_id": "one", "prompt": "def f(x):\n", "entry_point": "f", "canonical_solution": "    return x + 1\n",
     "test": "def check(c):\n    assert c(1) == 2"},
    {"task_id": "two", "prompt": "def g(x):\n", "entry_point": "g", "canonical_solution": "    return [x]\n",
     "test": "def check(c):\n    assert c(1) == [1]"},
]  # fmt: skip
RIGHT, WRONG = "    return x + 1\n", "    return None\n"


def suite(folder: Path, *rows: object) -> files.Suite:
    path = folder / "suite.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return files.read(f"file://{path}")


def answers(*texts: str) -> scoring.Generate:
    def generate(requests: Sequence[Request]) -> Sequence[str]:
        assert len(requests) == len(texts)
        return texts

    return generate


def test_answers_are_scored_and_reported(tmp_path: Path) -> None:
    found = scoring.evaluate(suite(tmp_path, *ROWS), "mine", answers(RIGHT, WRONG), Settings(), Here())
    (score,) = found.scores
    assert (score.name, score.value, score.problems) == ("pass@1", 0.5, 2)
    assert [s.state for p in found.problems for s in p.samples] == ["passed", "failed"]
    assert (found.isolation in ("filtered", "namespaces"), found.trust) == (True, "process")
    assert SuiteResult.model_validate_json(found.model_dump_json()) == found
    assert "| pass@1 | 50.0% [" in report.markdown([found])
    assert b'anneal_evaluation_score{model="mine",score="pass@1"' in telemetry.exposition([found])


@pytest.mark.parametrize("looked_at", [True, False])
def test_a_terminal_is_shown_what_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looked_at: bool
) -> None:
    seen = io.StringIO()
    monkeypatch.setattr(seen, "isatty", lambda: looked_at)
    monkeypatch.setattr("sys.stderr", seen)
    scoring.evaluate(suite(tmp_path, ROWS[0]), "mine", answers(RIGHT), Settings(), Here())
    for what in ("reference solutions judged", "answers judged"):
        assert (f"{what}: 100%" in seen.getvalue()) is looked_at


def test_several_samples_give_pass_at_k(tmp_path: Path) -> None:
    wanted = Settings(samples=2, temperature=0.8, ks=(1, 2))
    asked: list[Request] = []

    def generate(requests: Sequence[Request]) -> Sequence[str]:
        asked.extend(requests)
        return [RIGHT, WRONG]

    found = scoring.evaluate(suite(tmp_path, ROWS[0]), "mine", generate, wanted, Here())
    assert {s.name: s.value for s in found.scores} == {"pass@1": 0.5, "pass@2": 1.0}
    assert [(r.seed, r.temperature) for r in asked] == [(0, 0.8), (1, 0.8)]


def test_a_suite_whose_own_solutions_fail_is_refused(tmp_path: Path) -> None:
    broken = {**ROWS[0], "canonical_solution": WRONG}
    with pytest.raises(Refused, match="1 of 1 reference solutions fail"):
        scoring.evaluate(suite(tmp_path, broken), "mine", answers(RIGHT), Settings(), Here())


def test_texts_are_scored_without_running_anything(tmp_path: Path) -> None:
    rows = [
        {"prefix": "a", "suffix": "c", "middle": "b"},
        {"context": "x = ", "line": "abcd"},
        {"prompt": "say", "reference": "a b c d"},
        {"code": "x", "defect": True},
        {"code": "y", "defect": False},
    ]
    given = answers("b\n", "abxd\n", "a b c d", "Yes.", "yes")
    found = scoring.evaluate(suite(tmp_path, *rows), "mine", given, Settings(), Here())
    values = {s.name: s.value for s in found.scores}
    assert values == pytest.approx({"exact match": 1, "edit similarity": 0.75, "BLEU-4": 1, "F1": 2 / 3})
    assert found.isolation == ""


def test_a_language_without_toolchain_is_refused(tmp_path: Path) -> None:
    row = {"name": "p", "language": "cobol", "prompt": "x", "tests": "y"}
    with pytest.raises(
        Refused, match="programs in cobol cannot be run; python, javascript, cpp, java, go can"
    ):
        scoring.evaluate(suite(tmp_path, row), "mine", answers(""), Settings(), Here())


def test_a_wrong_line_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"line 2: fields what"):
        suite(tmp_path, ROWS[0], {"what": 1})


def result(model: str, *passed: bool) -> SuiteResult:
    problems = [
        {"name": str(n), "task": "code", "language": "python", "kept": ["<b>"],
         "samples": [{"answer": "", "state": "passed" if p else "failed", "score": float(p)}]}
        for n, p in enumerate(passed)
    ]  # fmt: skip
    return SuiteResult.model_validate(
        {"suite": "s", "digest": "d", "model": model, "settings": {}, "problems": problems, "scores": []}
    )


def test_two_models_are_compared_problem_by_problem() -> None:
    base = result("base", *[False] * 8, True, True)
    tuned = result("tuned", *[True] * 8, True, False)
    found = comparison.compare(base, tuned)
    assert (found.only_first, found.only_second, found.decision) == (1, 8, "better")
    assert found.difference.value == pytest.approx(0.7)
    assert found.difference.low > 0
    assert comparison.compare(base, base).decision == "undecided"
    assert "better; +70.0 points" in report.compared(found)


def test_what_was_asked_otherwise_is_not_compared() -> None:
    other = result("b", True).model_copy(update={"settings": Settings(temperature=1)})
    with pytest.raises(Refused, match="were not asked the same"):
        comparison.compare(result("a", True), other)


def test_win_rates_share_ranks() -> None:
    table = {"a": {"py": 0.9, "js": 0.5}, "b": {"py": 0.1, "js": 0.5}, "c": {"py": 0.5, "js": 0.1}}
    assert comparison.win_rates(table) == {"a": 3.0, "b": 2.0, "c": 1.5}
    with pytest.raises(Refused, match="c has no js"):
        comparison.win_rates({**table, "c": {"py": 1.0}})


def test_a_win_rate_is_told_with_its_formula_and_its_table() -> None:
    told = report.win_rates({"b": {"py": 0.1, "js": 0.5}, "a": {"py": 0.9, "js": 0.6}}).splitlines()
    assert told[0] == "| model | WinRate | js | py |"
    assert told[2:4] == ["| a | 2.00 | 0.600 | 0.900 |", "| b | 1.00 | 0.500 | 0.100 |"]
    assert told[-1].startswith("WinRate: the mean over 2 columns of 2 models - (rank - 1)")


def test_the_page_escapes_answers() -> None:
    assert "<b>" not in report.page([result("a", True)])


@pytest.mark.slow
def test_every_reference_solution_of_human_eval_passes() -> None:
    problems = files.read("humaneval")
    given = [f"```python\n{problem.wanted}\n```" for problem in problems.problems]
    found = scoring.evaluate(problems, "reference", lambda _: given, Settings(), Here())
    assert (found.scores[0].value, found.scores[0].problems, found.invalid) == (1.0, 164, [])


@pytest.mark.slow
def test_no_wrong_solution_of_human_eval_passes() -> None:
    problems = files.read("humaneval")
    for wrong in (
        "    return None\n",
        "    raise SystemExit(0)\n",
        "    class A:\n        __eq__ = lambda a, b: True\n    return A()\n",
    ):
        found = scoring.evaluate(problems, "wrong", lambda _, wrong=wrong: [wrong] * 164, Settings(), Here())  # type: ignore[misc]
        assert found.scores[0].value == 0.0
