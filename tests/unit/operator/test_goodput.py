"""The share of a run's time in which steps were made that counted."""

from views import NOW, at, ended, stamp, status

from anneal_api.finetunejob import Attempt
from anneal_operator.finetunejob.goodput import goodput


def test_nothing_is_said_before_a_step() -> None:
    assert goodput(status(), NOW) is None
    assert goodput(status(Attempt(number=1, started=stamp(0))), at(60)) is None


def test_start_lost_steps_and_the_time_between_attempts_are_no_use() -> None:
    first = ended(1, 200, training=stamp(100), first_step=1, step=101, lost_steps=50)
    second = Attempt(number=2, started=stamp(250), training=stamp(300), first_step=52, step=152)
    got = goodput(status(first, second), at(400))
    assert got == (50 + 100) / 400


def test_a_run_that_is_over_no_longer_changes() -> None:
    done = status(ended(1, 200, "", training=stamp(100), first_step=1, step=101))
    assert goodput(done, at(300)) == goodput(done, at(9000)) == 0.5
