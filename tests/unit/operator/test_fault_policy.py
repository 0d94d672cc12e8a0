"""What an end costs, when it is the last one, and how long the next attempt waits."""

import pytest
from views import NOW, at, ended, stamp, status

from anneal_api.finetunejob import Attempt, FaultPolicy
from anneal_operator.finetunejob import faults
from anneal_operator.finetunejob.causes import Cause, End

RULES = FaultPolicy(max_restarts=3)


def end(cause: Cause) -> End:
    return End(cause, "R", "m")


@pytest.mark.parametrize(
    ("cause", "used", "fatal", "counts"),
    [
        (Cause.USER_ERROR, 0, True, False),
        (Cause.CRASH, 2, False, True),
        (Cause.CRASH, 3, True, False),
        (Cause.HANG, 3, True, False),
        (Cause.NODE_LOST, 3, False, False),
        (Cause.EVICTION, 3, False, False),
        (Cause.PREEMPTION, 3, False, False),
        (Cause.STORAGE, 3, False, False),
        (Cause.START_TIMEOUT, 3, False, False),
        (Cause.KUEUE_EVICTION, 3, False, False),
        (Cause.UNKNOWN, 0, False, True),
    ],
)
def test_judgement_of_an_end(cause: Cause, used: int, fatal: bool, counts: bool) -> None:
    got = faults.judge(end(cause), status(restarts=used), RULES, NOW)
    assert (bool(got.fatal), got.counts) == (fatal, counts)


def test_memory_that_runs_out_twice_in_a_row_runs_out_again() -> None:
    once = status(ended(1, 60, Cause.OUT_OF_MEMORY))
    assert faults.judge(end(Cause.OUT_OF_MEMORY), once, RULES, NOW).fatal
    between = status(ended(1, 60, Cause.OUT_OF_MEMORY), ended(2, 60, Cause.CRASH))
    assert not faults.judge(end(Cause.OUT_OF_MEMORY), between, RULES, NOW).fatal


def test_restarts_older_than_the_window_no_longer_count() -> None:
    rules = FaultPolicy(max_restarts=2, restart_window=3600)
    held = status(restarts=9, restart_times=[stamp(-4000), stamp(-3000)])
    assert not faults.judge(end(Cause.CRASH), held, rules, NOW).fatal
    assert faults.recent(held, rules, NOW) == [stamp(-3000)]
    twice = status(restarts=9, restart_times=[stamp(-3000), stamp(-10)])
    assert "within 3600 s" in faults.judge(end(Cause.CRASH), twice, rules, NOW).fatal


def delay(*attempts: Attempt, **more: object) -> float:
    return faults.delay(status(*attempts, **more), "u")


def test_delays_grow_and_start_anew_after_a_healthy_attempt() -> None:
    assert 5 <= delay(ended(1, 9)) <= 6
    assert 20 <= delay(ended(1, 9), ended(2, 9), ended(3, 9)) <= 24
    assert 5 <= delay(ended(1, 9), ended(2, 9), ended(3, 3600)) <= 6
    assert delay(*[ended(n, 9) for n in range(1, 20)]) <= 360


@pytest.mark.parametrize("cause", [Cause.SUSPENDED, Cause.RESIZED, Cause.KUEUE_EVICTION])
def test_who_was_asked_to_stop_goes_on_without_delay(cause: Cause) -> None:
    assert delay(ended(1, 9), ended(2, 9, cause)) == 0


def test_a_lost_node_is_replaced_sooner_than_a_crash_is_repeated() -> None:
    assert delay(ended(1, 9, Cause.NODE_LOST)) < 2 < delay(ended(1, 9, Cause.CRASH))


def test_nothing_before_a_retry_counts() -> None:
    retried = {"value": "x", "attempt": 1}
    assert delay(ended(1, 9), retry=retried) == 0
    held = status(ended(1, 60, Cause.OUT_OF_MEMORY), retry=retried)
    assert not faults.judge(end(Cause.OUT_OF_MEMORY), held, RULES, at(90)).fatal
