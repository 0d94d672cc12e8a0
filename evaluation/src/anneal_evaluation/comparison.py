"""Two models on one suite, problem by problem; and tables of many models on many languages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from anneal_evaluation import statistics
from anneal_evaluation.results import SuiteResult
from anneal_evaluation.statistics import Decision, Interval
from anneal_runtime.errors import Refused

SOLVED = 0.5
"""From this share of a problem's samples on a model solves it."""


@dataclass(frozen=True)
class Comparison:
    """The second model against the first, over the problems that both were scored on."""

    suite: str
    first: str
    second: str
    problems: int
    difference: Interval
    """Mean score of the second less the first's, with a paired bootstrap interval."""
    only_first: int
    only_second: int
    p_value: float
    """McNemar's, exact."""
    decision: Decision


def compare(first: SuiteResult, second: SuiteResult) -> Comparison:
    """Return how the second model does against the first.

    Raises:
        Refused: they were not asked the same in the same way.
    """
    if (first.digest, first.settings) != (second.digest, second.settings):
        raise Refused(
            "NotComparable",
            f"{first.model} and {second.model} were not asked the same: suite {first.suite} ({first.digest[:19]}, "
            f"{first.settings!r}) and {second.suite} ({second.digest[:19]}, {second.settings!r}); run both alike",
        )
    before, after = _means(first), _means(second)
    names = [name for name in before if name in after]
    pairs = [(before[name], after[name]) for name in names]
    if not pairs:
        raise Refused("NotComparable", f"{first.model} and {second.model} share no problem that was scored")
    lost = sum(a >= SOLVED > b for a, b in pairs)
    won = sum(b >= SOLVED > a for a, b in pairs)
    return Comparison(
        suite=first.suite,
        first=first.model,
        second=second.model,
        problems=len(pairs),
        difference=statistics.bootstrap(pairs, lambda drawn: fmean(b - a for a, b in drawn)),
        only_first=lost,
        only_second=won,
        p_value=statistics.mcnemar(lost, won),
        decision=statistics.decide(lost, won),
    )


def _means(result: SuiteResult) -> dict[str, float]:
    counted = {p.name: [s.score for s in p.samples if s.state != "error"] for p in result.problems}
    return {name: fmean(scores) for name, scores in counted.items() if scores}


def win_rates(table: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return each model's WinRate: over languages, the mean of models - (rank - 1), ranks shared by equal scores.

    As the BigCode leaderboard counts; `table` is model to language to score, and every model needs every language.
    """
    languages = sorted({language for row in table.values() for language in row})
    missing = [
        f"{model} has no {language}"
        for model, row in table.items()
        for language in languages
        if language not in row
    ]
    if missing or not languages:
        raise Refused(
            "IncompleteTable", f"{'; '.join(missing) or 'no scores'}; give every model every language"
        )
    return {
        model: fmean(
            _points(row[language], [other[language] for other in table.values()]) for language in languages
        )
        for model, row in table.items()
    }


def _points(score: float, all_scores: Sequence[float]) -> int:
    return len(all_scores) - sum(other > score for other in all_scores)
