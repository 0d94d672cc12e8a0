"""What lm-eval found, as the results of a suite: its samples and aggregations in, problems and scores out."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from anneal_evaluation import statistics
from anneal_evaluation.results import ProblemResult, Sample, Score
from anneal_evaluation.statistics import Interval
from anneal_runtime.errors import Refused

Values = Sequence[Any]
"""Of one metric, a document each: a number, or, as for BLEU, what the metric is computed from."""
Aggregate = Callable[[Values], float]

_OF_HUNDRED = ("bleu", "chrf")
_RESAMPLES = 200
"""For what is no mean over documents, such as a corpus' BLEU, and is computed anew each time."""


def scores(
    task: str, samples: Sequence[Mapping[str, Any]], aggregations: Mapping[str, Aggregate]
) -> list[Score]:
    """Return a figure for each metric and filter, with its 95% interval.

    Raises:
        Refused: a metric is no share of 1.
    """
    return [
        _score(task, metric, filter_, values, aggregations[metric])
        for (metric, filter_), values in _values(samples).items()
    ]


def problems(
    samples: Sequence[Mapping[str, Any]], aggregations: Mapping[str, Aggregate]
) -> list[ProblemResult]:
    """Return each document with its score by the first metric of the first filter; that of BLEU is the sentence's."""
    metric, filter_ = next(iter(_values(samples)))
    documents: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for sample in samples:
        documents[sample["doc_id"]].append(sample)
    share = _share(metric, aggregations[metric])
    return [
        _problem(document, next(s for s in found if s["filter"] == filter_), metric, share, _told(found))
        for document, found in documents.items()
    ]


def _values(samples: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Any]]:
    found: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for sample in samples:
        for metric in sample["metrics"]:
            found[metric, sample["filter"]].append(sample[metric])
    return found


def _share(metric: str, aggregate: Aggregate) -> Aggregate:
    return lambda values: float(aggregate(values)) / (100 if metric in _OF_HUNDRED else 1)


def _score(task: str, metric: str, filter_: str, values: Values, aggregate: Aggregate) -> Score:
    share = _share(metric, aggregate)
    each = [share([value]) for value in values]
    value = share(values)
    outside = next((found for found in (value, *each) if not 0 <= found <= 1), None)
    if outside is not None:
        raise Refused(
            "InvalidSuite",
            f"task {task}: metric {metric} gave {outside:g}, and scores are shares from 0 to 1; leave it out of "
            "metric_list, or divide it in process_results",
        )
    name = metric if filter_ == "none" else f"{metric} ({filter_})"
    found = _interval(values, each, value, share)
    return Score(name=name, value=value, low=found.low, high=found.high, problems=len(values))


def _interval(values: Values, each: Sequence[float], value: float, share: Aggregate) -> Interval:
    if not math.isclose(value, fmean(each), abs_tol=1e-9):
        return statistics.bootstrap(values, share, resamples=_RESAMPLES)
    if all(one in (0, 1) for one in each):
        return statistics.wilson(round(sum(each)), len(each))
    return statistics.bootstrap(each, fmean)


def _problem(
    document: int, sample: Mapping[str, Any], metric: str, share: Aggregate, detail: str
) -> ProblemResult:
    answer = "\n\n".join(text for texts in sample["resps"] for text in texts)
    scored = metric in sample["metrics"]
    return ProblemResult(
        name=str(document),
        task="lm-eval",
        language="",
        wanted=str(sample["target"]),
        kept=["\n\n".join(map(str, sample["filtered_resps"]))],
        samples=[
            Sample(
                answer=answer,
                state="scored" if scored else "error",
                score=share([sample[metric]]) if scored else 0.0,
                detail=detail,
            )
        ],
    )


def _told(found: Sequence[Mapping[str, Any]]) -> str:
    """Return all that was measured of a document, where that is more than its score."""
    pairs = [(s["filter"], metric, s[metric]) for s in found for metric in s["metrics"]]
    numbers = [p for p in pairs if isinstance(p[2], int | float)]
    return "; ".join(f"{metric} ({f}) {value:g}" for f, metric, value in numbers) if len(pairs) > 1 else ""
