"""Scores as Prometheus metrics, in the text format that a node's textfile collector, or a push gateway, takes."""

from collections import Counter as Tally
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from anneal_evaluation.results import SuiteResult


def exposition(results: Sequence[SuiteResult]) -> bytes:
    """Return the scores, their intervals, and the samples by verdict."""
    registry = CollectorRegistry()
    labels = ("suite", "model")
    score = Gauge("anneal_evaluation_score", "Score, 0 to 1", (*labels, "score"), registry=registry)
    low = Gauge("anneal_evaluation_score_low", "Lower end, 95%", (*labels, "score"), registry=registry)
    high = Gauge("anneal_evaluation_score_high", "Upper end, 95%", (*labels, "score"), registry=registry)
    samples = Gauge(
        "anneal_evaluation_samples", "Samples by verdict", (*labels, "verdict"), registry=registry
    )
    for result in results:
        for each in result.scores:
            for gauge, value in ((score, each.value), (low, each.low), (high, each.high)):
                gauge.labels(result.suite, result.model, each.name).set(value)
        for state, count in Tally(s.state for p in result.problems for s in p.samples).items():
            samples.labels(result.suite, result.model, state).set(count)
    return generate_latest(registry)
