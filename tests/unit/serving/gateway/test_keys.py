"""API keys: who is let in, what each may use, and a Secret that changes while it is used."""

import json
import logging
from pathlib import Path

import pytest

from anneal_serving.gateway.errors import ApiError
from anneal_serving.gateway.keys import Keys


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(tmp_path: Path, clock: Clock) -> Keys:
    (tmp_path / "alice").write_text("sk-alice\n")
    limits = {"requestsPerMinute": 2, "tokensPerMinute": 100, "concurrentRequests": 1}
    (tmp_path / "bob").write_text(json.dumps({"key": "sk-bob"} | limits))
    return Keys(tmp_path, clock)


def test_a_key_names_its_client(keys: Keys) -> None:
    assert keys.check("Bearer sk-alice") == "alice"
    assert keys.check("bearer  sk-bob ") == "bob"


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Bearer sk-alic", "Basic sk-alice", "sk-alice"])
def test_any_other_header_is_401(keys: Keys, header: str) -> None:
    with pytest.raises(ApiError) as caught:
        keys.check(header)
    error = caught.value
    assert (error.status, error.code, error.kind) == (401, "invalid_api_key", "invalid_request_error")
    assert error.headers["WWW-Authenticate"] == "Bearer"
    assert "alic" not in error.message


def test_without_any_key_nobody_is_let_in(tmp_path: Path) -> None:
    with pytest.raises(ApiError):
        Keys(tmp_path / "nowhere").check("Bearer ")


def test_a_secret_that_changes_is_read_again(keys: Keys, tmp_path: Path, clock: Clock) -> None:
    assert keys.check("Bearer sk-alice") == "alice"
    (tmp_path / "alice").write_text("sk-new")
    clock.now += 1
    assert keys.check("Bearer sk-new") == "alice"
    with pytest.raises(ApiError):
        keys.check("Bearer sk-alice")


def test_a_rotated_key_keeps_what_was_used(keys: Keys, tmp_path: Path, clock: Clock) -> None:
    keys.check("Bearer sk-bob")
    keys.admit("bob")
    text = (tmp_path / "bob").read_text()
    (tmp_path / "bob").write_text(text.replace("sk-bob", "sk-next"))
    clock.now += 1
    assert keys.check("Bearer sk-next") == "bob"
    with pytest.raises(ApiError, match="concurrentRequests: 1"):
        keys.admit("bob")


def test_requests_of_a_minute_are_counted(keys: Keys, clock: Clock) -> None:
    for _ in range(2):
        keys.admit("bob").ended(1)
    with pytest.raises(ApiError, match="requestsPerMinute: 2") as caught:
        keys.admit("bob")
    assert (caught.value.status, caught.value.headers["Retry-After"]) == (429, "30")
    clock.now += 30
    keys.admit("bob").ended(1)


def test_tokens_are_known_at_the_end_and_paid_back_by_waiting(keys: Keys, clock: Clock) -> None:
    keys.admit("bob").ended(150)
    clock.now += 30
    with pytest.raises(ApiError, match="tokensPerMinute: 100") as caught:
        keys.admit("bob")
    assert caught.value.headers["Retry-After"] == "1"
    clock.now += 1
    keys.admit("bob").ended(0)


def test_a_client_without_limits_has_none(keys: Keys) -> None:
    for _ in range(200):
        keys.admit("alice").ended(10**6)
    assert keys.admit("alice").client == "alice"


def test_an_entry_that_cannot_be_used_is_named_and_its_value_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken").write_text('{"key": "sk-broken", "requestPerMinute": 5}')
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "good").write_text("sk-good")
    (tmp_path / "..data").mkdir()
    with caplog.at_level(logging.ERROR, "anneal.gateway"):
        assert Keys(tmp_path).check("Bearer sk-good") == "good"
    assert sorted(vars(record)["entry"] for record in caplog.records) == ["binary", "broken", "empty"]
    assert "sk-broken" not in caplog.text
    assert "sk-broken" not in str([vars(record) for record in caplog.records])
