"""The accuracy budget: what was measured against what the spec allows."""

from anneal_api.modeldeployment import Gate, GateScore
from anneal_api.outcome import GateResult

DIGITS = 6
MOST_TASKS = 8


def figures(result: GateResult) -> GateScore:
    """Return the measurement as text, for the status."""
    worst = sorted(result.tasks, key=lambda t: t.reference_perplexity / max(t.engine_perplexity, 1e-30))
    tasks = ", ".join(
        f"{t.name} {t.reference_perplexity:.4g} -> {t.engine_perplexity:.4g}" for t in worst[:MOST_TASKS]
    )
    return GateScore(
        logit_kl=f"{result.logit_kl:.{DIGITS}g}",
        perplexity_increase=f"{result.perplexity_increase:.{DIGITS}g}",
        detail="; ".join(filter(None, (f"{result.tokens} tokens; perplexity {tasks}", result.diagnosis))),
    )


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
    return f"{'; '.join(wrong)} ({score.detail})" if wrong else ""


def shown(score: GateScore) -> str:
    """Return the measurement as a sentence."""
    return f"logit KL {score.logit_kl}, perplexity increase {score.perplexity_increase}; {score.detail}"
