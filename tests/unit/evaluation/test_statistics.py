from statistics import fmean

import pytest

from anneal_evaluation import statistics

VECTORS = [
    (10, 3, 1, 0.3),
    (10, 3, 5, 0.916667),
    (200, 1, 100, 0.5),
    (200, 13, 10, 0.497551),
    (50, 7, 10, 0.813349),
    (5, 5, 3, 1.0),
    (1, 0, 1, 0.0),
]


@pytest.mark.parametrize(("samples", "passed", "k", "expected"), VECTORS)
def test_pass_at_k(samples: int, passed: int, k: int, expected: float) -> None:
    assert statistics.pass_at_k(samples, passed, k) == pytest.approx(expected, abs=1e-6)


def test_wilson_holds_at_the_ends() -> None:
    found = statistics.wilson(10, 164)
    assert (found.value, found.low, found.high) == pytest.approx((0.060976, 0.033454, 0.108593), abs=1e-5)
    assert statistics.wilson(0, 20).low == 0.0
    assert 0.1 < statistics.wilson(0, 20).high < 0.2
    assert statistics.wilson(20, 20).high == 1.0


def test_mcnemar_is_a_binomial_test() -> None:
    assert statistics.mcnemar(0, 0) == 1.0
    assert statistics.mcnemar(1, 8) == pytest.approx(2 * 10 / 512)
    assert statistics.mcnemar(8, 1) == statistics.mcnemar(1, 8)


def test_few_differences_decide_nothing() -> None:
    assert statistics.decide(2, 5) == "undecided"
    assert statistics.decide(0, 6) == "better"
    assert statistics.decide(6, 0) == "worse"


def test_bootstrap_is_the_same_for_a_seed_and_covers_the_value() -> None:
    values = [0.0] * 30 + [1.0] * 10
    found = statistics.bootstrap(values, fmean)
    assert found == statistics.bootstrap(values, fmean)
    assert found.value == 0.25
    assert 0.1 < found.low < 0.25 < found.high < 0.4
