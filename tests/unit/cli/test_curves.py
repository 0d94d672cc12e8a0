"""Curves from a ledger, in a terminal and as pictures."""

import math

import pytest
from objects import steps

from anneal_cli import curves


def test_losses_are_told_by_task_and_where_attempts_went_on() -> None:
    got = curves.curves(steps())
    assert set(got.losses) == {"loss", "write", "read"}
    assert got.losses["read"][1] == (3, 1.0)
    assert got.learning_rate[-1] == (100, 1e-3)
    assert got.attempts == {2: 41}


def test_a_step_without_a_number_is_left_out() -> None:
    broken = [{**step, "loss": math.nan if step["step"] == 2 else step["loss"]} for step in steps(3)]
    assert [step for step, _ in curves.curves(broken).losses["loss"]] == [1, 3]


def test_many_points_become_means_of_stretches() -> None:
    points = [(step, float(step)) for step in range(1, 101)]
    got = curves.thinned(points, most=10)
    assert len(got) == 10
    assert got[0] == (10, 5.5)
    assert got[-1] == (100, 95.5)
    assert curves.thinned(points[:3], most=10) == points[:3]


def test_a_terminal_shows_every_curve_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    text = curves.terminal(curves.curves(steps()))
    for name in ("loss", "write", "read", "learning rate", "(step)"):
        assert name in text
    assert "\x1b" not in text
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" in curves.terminal(curves.curves(steps()), colour=True)


@pytest.mark.slow  # matplotlib takes two seconds to import
def test_pictures_of_the_same_curves_are_the_same() -> None:
    got = curves.curves(steps(20))
    assert curves.image(got, "png").startswith(b"\x89PNG")
    assert curves.image(got, "svg") == curves.image(got, "svg")
