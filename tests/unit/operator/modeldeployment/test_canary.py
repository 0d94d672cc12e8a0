"""What speaks against a new version: failures beyond chance, and times beyond the allowed ratio."""

import pytest

from anneal_api.modeldeployment import Rollout
from anneal_operator.modeldeployment import canary
from anneal_operator.modeldeployment.canary import Tally, Trial

RULES = Rollout(max_error_rate=0.01, max_latency_ratio=1.5)
GATEWAY = """\
anneal_gateway_trial_seconds{trial="t"} 61.5
anneal_version_requests_total{outcome="ok",trial="t",version="old"} 90.0
anneal_version_requests_total{outcome="failed",trial="t",version="old"} 0.0
anneal_version_requests_total{outcome="ok",trial="t",version="new"} 9.0
anneal_version_requests_total{outcome="failed",trial="t",version="new"} 1.0
anneal_version_first_token_seconds_total{trial="t",version="new"} 4.5
anneal_version_decode_seconds_total{trial="t",version="new"} 18.0
anneal_version_decode_tokens_total{trial="t",version="new"} 360.0
"""


def test_gateways_are_added_up() -> None:
    seen = canary.read([GATEWAY, GATEWAY.replace("61.5", "12")], "t", "old", "new")
    assert seen == Trial(12.0, Tally(180, 0), Tally(18, 2, 9.0, 36.0, 720))


@pytest.mark.parametrize("other", [None, "", GATEWAY.replace('"t"', '"before"')])
def test_a_step_lasts_only_once_all_gateways_are_at_it(other: str | None) -> None:
    assert canary.read([GATEWAY, other], "t", "old", "new").seconds is None
    assert canary.read([], "t", "old", "new").seconds is None


@pytest.mark.parametrize(
    ("answered", "failed", "bad"),
    [
        (0, 0, False),
        (19, 1, False),  # happens by chance every sixth time at 1 %
        (18, 2, True),
        (0, 1, True),
        (990, 10, False),
        (980, 20, True),
        (99_000, 1_000, False),
        (97_000, 3_000, True),
    ],
)
def test_failures_count_when_chance_does_not_explain_them(answered: int, failed: int, bad: bool) -> None:
    said = canary.complaint(RULES, Trial(60, Tally(), Tally(answered, failed)))
    assert ("maxErrorRate" in said) is bad


def test_with_no_failure_allowed_the_first_is_one_too_many() -> None:
    strict = RULES.model_copy(update={"max_error_rate": 0.0})
    assert canary.complaint(strict, Trial(60, Tally(), Tally(9999, 1)))
    assert not canary.complaint(strict, Trial(60, Tally(), Tally(9999, 0)))


def tally(answers: float = 100, first: float = 0.1, between: float = 0.02) -> Tally:
    return Tally(answers, 0, first * answers, between * answers * 50, answers * 50)


@pytest.mark.parametrize(
    ("new", "bad"),
    [
        (tally(), False),
        (tally(first=0.14, between=0.029), False),
        (tally(first=0.16), True),
        (tally(between=0.031), True),
        (tally(answers=19, first=9.0), False),
    ],
)
def test_the_worse_of_two_times_counts_once_enough_was_answered(new: Tally, bad: bool) -> None:
    assert ("maxLatencyRatio" in canary.complaint(RULES, Trial(60, tally(), new))) is bad


def test_without_traffic_on_the_old_version_times_say_nothing() -> None:
    assert canary.complaint(RULES, Trial(60, Tally(), tally(first=9.0))) == ""


def test_answers_of_one_token_have_no_time_between_tokens() -> None:
    old, new = Tally(50, 0, 5.0), Tally(50, 0, 10.0)
    assert canary.ratio(Trial(60, old, new)) == 2.0
