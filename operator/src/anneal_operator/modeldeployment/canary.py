"""What gateways count of a rollout's step, and whether it speaks against the new version."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from anneal_api.modeldeployment import Rollout
from anneal_operator.modeldeployment.autoscale import gauge

CHANCE = 0.05
"""A share of failures that would come about by chance this often is not held against a version."""
FEWEST = 20
"""Answers that each version must have given before their times are compared."""


@dataclass(frozen=True)
class Tally:
    """What a version has done in a step, over all gateways."""

    answered: float = 0
    failed: float = 0
    first_seconds: float = 0
    """From a replica to the first token, summed over answers."""
    decode_seconds: float = 0
    decode_tokens: float = 0
    """Tokens after the first, and the seconds they took."""


@dataclass(frozen=True)
class Trial:
    """A step of a rollout as the gateways see it."""

    seconds: float | None
    """For how long all of them have routed so; None as long as one does not, or does not answer."""
    old: Tally
    new: Tally


def read(gateways: Sequence[str | None], trial: str, old: str, new: str) -> Trial:
    """Return what the gateways' metrics say of a step; None stands for a gateway that does not answer."""
    known = [text or "" for text in gateways]
    ages = [gauge(text, "anneal_gateway_trial_seconds", trial=trial) for text in known]
    seconds = min((age for age in ages if age is not None), default=None) if None not in ages else None
    return Trial(seconds, _tally(known, trial, old), _tally(known, trial, new))


def _tally(gateways: Sequence[str], trial: str, version: str) -> Tally:
    def total(name: str, **labels: str) -> float:
        found = (
            gauge(text, f"anneal_version_{name}_total", trial=trial, version=version, **labels)
            for text in gateways
        )
        return sum(value or 0.0 for value in found)

    return Tally(
        answered=total("requests", outcome="ok"),
        failed=total("requests", outcome="failed"),
        first_seconds=total("first_token_seconds"),
        decode_seconds=total("decode_seconds"),
        decode_tokens=total("decode_tokens"),
    )


def complaint(rules: Rollout, trial: Trial) -> str:
    """Return what speaks against the new version; empty when nothing does."""
    new, requests = trial.new, trial.new.failed + trial.new.answered
    if (
        new.failed > rules.max_error_rate * requests
        and _by_chance(requests, new.failed, rules.max_error_rate) < CHANCE
    ):
        return f"{new.failed:g} of {requests:g} requests failed (spec.rollout.maxErrorRate: {rules.max_error_rate:g})"
    slower = ratio(trial)
    if slower is not None and slower > rules.max_latency_ratio:
        return f"{slower:.2f} times as slow as the old version (spec.rollout.maxLatencyRatio: {rules.max_latency_ratio:g})"
    return ""


def ratio(trial: Trial) -> float | None:
    """Return how much slower the new version is, to the first token or between tokens; None while too little is known."""
    old, new = trial.old, trial.new
    if min(old.answered, new.answered) < FEWEST:
        return None
    pairs = [(new.first_seconds / new.answered, old.first_seconds / old.answered)]
    if old.decode_tokens and new.decode_tokens:
        pairs.append((new.decode_seconds / new.decode_tokens, old.decode_seconds / old.decode_tokens))
    return max((mine / theirs for mine, theirs in pairs if theirs), default=None)


def shown(trial: Trial) -> str:
    """Return the figures as a sentence."""
    slower = ratio(trial)
    speed = "" if slower is None else f", {slower:.2f} times the old version's time"
    return f"{trial.new.answered:g} requests answered, {trial.new.failed:g} failed{speed}"


def _by_chance(requests: float, failed: float, rate: float) -> float:
    """Return how likely at least so many failures are at this rate: the tail of the binomial distribution."""
    if not 0 < rate < 1:
        return rate
    ways = math.lgamma(requests + 1) - math.lgamma(failed + 1) - math.lgamma(requests - failed + 1)
    term = math.exp(ways + failed * math.log(rate) + (requests - failed) * math.log1p(-rate))
    total, count = 0.0, failed
    while term > 1e-12:
        total += term
        term *= (requests - count) / (count + 1) * rate / (1 - rate)
        count += 1
    return total
