from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import pytest

from anneal_evaluation import statistics
from anneal_evaluation.harness import measured
from anneal_runtime.errors import Refused

AGGREGATIONS = {"exact_match": fmean, "f1": fmean}


def sample(document: int, filter_: str = "none", **metrics: Any) -> dict[str, Any]:
    """Return a sample as lm-eval logs it."""
    return {
        "doc_id": document,
        "filter": filter_,
        "metrics": list(metrics),
        "target": document,
        "resps": [[f"answer {document}"]],
        "filtered_resps": [f"kept {document}"],
        **metrics,
    }


def test_shares_of_zeros_and_ones_have_wilsons_interval_and_others_a_bootstrap() -> None:
    samples = [sample(n, exact_match=int(n < 3), f1=n / 10) for n in range(4)]
    exact, f1 = measured.scores("t", samples, AGGREGATIONS)
    wilson = statistics.wilson(3, 4)
    assert (exact.name, exact.value, exact.low, exact.high) == ("exact_match", 0.75, wilson.low, wilson.high)
    assert (f1.name, f1.problems) == ("f1", 4)
    assert f1.value == pytest.approx(0.15)
    assert 0 <= f1.low < f1.value < f1.high <= 0.3


def test_a_document_has_the_first_filters_score_and_all_that_was_measured() -> None:
    samples = [
        sample(n, f, exact_match=int((f == "loose") or n)) for f in ("strict", "loose") for n in (0, 1)
    ]
    assert [s.name for s in measured.scores("t", samples, AGGREGATIONS)] == [
        "exact_match (strict)",
        "exact_match (loose)",
    ]
    first, second = measured.problems(samples, AGGREGATIONS)
    assert (first.name, first.wanted, first.kept, first.samples[0].answer) == (
        "0",
        "0",
        ["kept 0"],
        "answer 0",
    )
    assert [p.samples[0].score for p in (first, second)] == [0.0, 1.0]
    assert first.samples[0].detail == "exact_match (strict) 0; exact_match (loose) 1"


def test_a_document_without_the_metric_counts_neither_way() -> None:
    samples = [sample(0, exact_match=1), sample(1, f1=0.5)]
    assert [s.problems for s in measured.scores("t", samples, AGGREGATIONS)] == [1, 1]
    assert [p.samples[0].state for p in measured.problems(samples, AGGREGATIONS)] == ["scored", "error"]


def lengths(pairs: Sequence[tuple[int, int]]) -> float:
    """Return a figure of the whole corpus that is no mean of its documents': per cent."""
    return 100 * sum(a for a, _ in pairs) / sum(b for _, b in pairs)


def test_a_corpus_figure_is_a_share_of_one_and_a_document_has_its_own() -> None:
    samples = [sample(n, bleu=(n, 2 * n + 1)) for n in range(4)]
    aggregations: Mapping[str, measured.Aggregate] = {"bleu": lengths}
    (bleu,) = measured.scores("t", samples, aggregations)
    assert bleu.value == pytest.approx(6 / 16)
    assert bleu.low < bleu.value < bleu.high
    found = measured.problems(samples, aggregations)
    assert [p.samples[0].score for p in found] == pytest.approx([0, 1 / 3, 2 / 5, 3 / 7])


@pytest.mark.parametrize("value", [1.5, -0.1, float("nan")])
def test_a_metric_that_is_no_share_is_refused_by_name(value: float) -> None:
    with pytest.raises(Refused, match="task t: metric f1 gave .* leave it out of metric_list"):
        measured.scores("t", [sample(0, f1=value)], AGGREGATIONS)
