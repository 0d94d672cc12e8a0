"""The accuracy budget: what was measured against what the spec allows."""

from collections.abc import Iterator

from anneal_api import outcome
from anneal_api.modeldeployment import Gate, GateScore, GateSuite
from anneal_api.outcome import GateResult, GateTask

DIGITS = 6
MOST_TASKS = 8


def figures(result: GateResult) -> GateScore:
    """Return the measurement as text, for the status."""
    worst = sorted(result.tasks, key=lambda t: t.reference_perplexity / max(t.engine_perplexity, 1e-30))
    tasks = ", ".join(map(_task, worst[:MOST_TASKS]))
    suites = [_suite(suite) for suite in result.suites if suite.problems]
    told = [f"{result.tokens} tokens; perplexity {tasks}", *suites, result.diagnosis]
    return GateScore(
        logit_kl=f"{result.logit_kl:.{DIGITS}g}",
        perplexity_increase=f"{result.perplexity_increase:.{DIGITS}g}",
        suites=[
            GateSuite(
                name=suite.name,
                reference=f"{suite.reference:.{DIGITS}g}",
                engine=f"{suite.engine:.{DIGITS}g}",
                drop=f"{100 * (suite.reference - suite.engine):.{DIGITS}g}",
                decision=suite.decision,
            )
            for suite in result.suites
        ],
        detail="; ".join(filter(None, told)),
    )


def _task(task: GateTask) -> str:
    divergence = "" if task.logit_kl is None else f" (KL {task.logit_kl:.4g})"
    return f"{task.name} {task.reference_perplexity:.4g} -> {task.engine_perplexity:.4g}{divergence}"


def _suite(suite: outcome.GateSuite) -> str:
    """Return a suite's scores with their 95% intervals and the count behind them."""
    full = f"{suite.reference:.3g} ({suite.reference_low:.3g} to {suite.reference_high:.3g})"
    engine = f"{suite.engine:.3g} ({suite.engine_low:.3g} to {suite.engine_high:.3g})"
    return f"{suite.name} {full} -> {engine} of {suite.problems} problems"


def beyond(budget: Gate, score: GateScore) -> str:
    """Return how the measurement exceeds the budget; empty when it does not."""
    limits = (
        ("gate.maxLogitKL", float(score.logit_kl), budget.max_logit_kl),
        ("gate.maxPerplexityIncrease", float(score.perplexity_increase), budget.max_perplexity_increase),
    )
    # Written this way round so that a NaN is beyond any budget.
    wrong = [
        f"spec.{name}: {limit:g}, measured {value:g}" for name, value, limit in limits if not value <= limit
    ]
    wrong += _dropped(budget, score)
    return f"{'; '.join(wrong)} ({score.detail})" if wrong else ""


def _dropped(budget: Gate, score: GateScore) -> Iterator[str]:
    """Yield the suites that dropped beyond their budget, as far as a paired test can tell that from chance."""
    measured = {suite.name: suite for suite in score.suites}
    for limit in budget.suites:
        suite = measured.get(limit.name)
        if (
            suite is None
        ):  # by an engine's gate of an earlier release: a suite belongs to a version's identity
            yield f"spec.gate.suites {limit.name}: was not measured"
        elif suite.decision == "worse" and not float(suite.drop) <= limit.max_drop:
            yield (
                f"spec.gate.suites {limit.name}: maxDrop {limit.max_drop:g} points, measured {suite.drop} "
                f"({suite.reference} to {suite.engine})"
            )


def shown(score: GateScore) -> str:
    """Return the measurement as a sentence."""
    suites = [f"{s.name} {s.reference} to {s.engine} ({s.decision})" for s in score.suites]
    told = f"logit KL {score.logit_kl}, perplexity increase {score.perplexity_increase}"
    return "; ".join([told, *suites, score.detail])
