"""The frame of a stage: exit codes and termination messages."""

import re
from pathlib import Path

import pytest

from anneal_api.base import Model
from anneal_api.outcome import Outcome
from anneal_runtime.errors import Refused, TryAgain
from anneal_runtime.stage import encode, run_stage


class Order(Model):
    """A run config of this test."""

    amount: int


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "run.json").write_text('{"amount": 2}')
    monkeypatch.setenv("ANNEAL_RUN", str(tmp_path / "run.json"))
    monkeypatch.setenv("ANNEAL_TERMINATION_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def raising(error: Exception):
    def work(_: Order) -> Order:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "verdict", "reason"),
    [
        (Refused("BadRows", "line 3"), 64, "Refused", "BadRows"),
        (TryAgain("StoreAway", "later"), 75, "Retry", "StoreAway"),
        (ZeroDivisionError("oops"), 70, "Failed", "ZeroDivisionError"),
    ],
)
def test_errors_become_codes_and_messages(
    log: Path, error: Exception, code: int, verdict: str, reason: str
) -> None:
    assert run_stage(raising(error), Order) == code
    outcome = Outcome.model_validate_json(log.read_text())
    assert (outcome.verdict, outcome.reason, outcome.message) == (verdict, reason, str(error))


def test_a_result_is_carried(log: Path) -> None:
    assert run_stage(lambda order: Order(amount=order.amount * 2), Order) == 0
    assert Outcome.model_validate_json(log.read_text()).result == {"amount": 4}


def test_a_message_is_cut_to_what_the_kubelet_keeps() -> None:
    result = {"scores": "s" * 3000}
    text = encode(Outcome(verdict="Failed", reason="Long", message="é" * 2048, result=result))
    assert len(text.encode()) <= 4096
    assert Outcome.model_validate_json(text).result == result


def test_a_result_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="4096 fit"):
        encode(Outcome(verdict="Succeeded", reason="Done", result={"x": "y" * 5000}))


def test_a_result_that_does_not_fit_is_told_as_a_failure(log: Path) -> None:
    class Long(Model):
        text: str

    assert run_stage(lambda _: Long(text="y" * 5000), Order) == 70
    outcome = Outcome.model_validate_json(log.read_text())
    assert (outcome.verdict, outcome.reason) == ("Failed", "ResultTooLong")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ('{"amount": 2, "amonut": 3}', "run.json: amonut: Extra inputs are not permitted, found 3"),
        ('{"amount": "two"}', "run.json: amount: .* found two"),
        ("{", "run.json: the file: Invalid JSON"),
    ],
    ids=["unknown key", "wrong value", "not JSON"],
)
def test_a_wrong_run_config_is_the_users_error_and_is_named(log: Path, config: str, told: str) -> None:
    (log.parent / "run.json").write_text(config)
    assert run_stage(lambda order: order, Order) == 64
    outcome = Outcome.model_validate_json(log.read_text())
    assert (outcome.verdict, outcome.reason) == ("Refused", "InvalidRun")
    assert re.search(told, outcome.message)
