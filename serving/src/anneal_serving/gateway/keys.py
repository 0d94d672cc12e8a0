"""Who may ask: API keys from a mounted Secret, and what each of them may use.

An entry of the Secret is a client: its name is the entry's, its value the key, or JSON with the key and limits:

    alice: sk-3fa9...
    batch: {"key": "sk-77c0...", "requestsPerMinute": 60, "tokensPerMinute": 20000, "concurrentRequests": 4}

The kubelet replaces the files when the Secret changes, so a key is rotated without a restart. A gateway counts the
requests it has seen itself: with N gateways a client may get up to N times its limits.
"""

import hashlib
import hmac
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic.alias_generators import to_camel

from anneal_serving.gateway.errors import ApiError

RELOAD_SECONDS = 1.0
_MINUTE = 60.0
_log = logging.getLogger("anneal.gateway")


class Entry(BaseModel):
    """What an entry of the Secret says; limits that are unset do not hold."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, hide_input_in_errors=True)

    key: SecretStr = Field(min_length=1)
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    concurrent_requests: Annotated[int, Field(ge=1)] | None = None

    @property
    def digest(self) -> bytes:
        """What a given key is compared with: of one length, whatever the key's."""
        return _digest(self.key.get_secret_value())


def entry_of(text: str) -> Entry:
    """Return an entry from its value, or raise ValidationError, whose text holds no part of it."""
    value = text.strip()
    return Entry.model_validate_json(value) if value.startswith("{") else Entry.model_validate({"key": value})


def read(folder: Path) -> dict[str, Entry]:
    """Return the clients of a mounted Secret by name; an entry that cannot be used is left out and logged."""
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name.startswith(".") or not path.is_file():
            continue  # the kubelet's own links and folders
        try:
            found[path.name] = entry_of(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            fields = [".".join(map(str, each["loc"])) for each in error.errors(include_input=False)]
            _log.error("an API key cannot be used", extra={"entry": path.name, "fields": fields})
        except UnicodeDecodeError:
            _log.error("an API key cannot be used", extra={"entry": path.name, "fields": ["not text"]})
    return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


class Bucket:
    """A rate of `limit` a minute, of which a whole minute's worth may come at once."""

    def __init__(self, limit: int, now: float) -> None:
        self.limit = limit
        self._left = float(limit)
        self._at = now

    def wait(self, now: float) -> float:
        """Return the seconds until something is left; 0 when something is."""
        self._left = min(self.limit, self._left + (now - self._at) * self.limit / _MINUTE)
        self._at = now
        # Down to one, not zero: a fraction of a request is none.
        return max(0.0, (1 - self._left) * _MINUTE / self.limit)

    def take(self, amount: int) -> None:
        """Use up `amount`; what was not known beforehand may bring it below zero."""
        self._left -= amount


@dataclass
class Use:
    """What a client has used of its limits."""

    entry: Entry
    requests: Bucket | None
    tokens: Bucket | None
    running: int = 0


class Pass:
    """A client's leave for one request.

    Attributes:
        client: name of the client; empty where no keys are asked for.
    """

    def __init__(self, client: str = "", use: Use | None = None) -> None:
        self.client = client
        self._use = use

    def ended(self, tokens: int) -> None:
        """The request has ended after `tokens`, those of the prompt included."""
        if self._use is not None:
            self._use.running -= 1
            if self._use.tokens is not None:
                self._use.tokens.take(tokens)


class Keys:
    """The clients of a gateway.

    Args:
        folder: where the Secret is mounted.
        clock: seconds that only go forward.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._read_at = -math.inf
        self._uses: dict[str, Use] = {}

    def check(self, authorization: str) -> str:
        """Return the client whose key an Authorization header holds.

        Raises:
            ApiError: 401, the same whether the key is missing or wrong.
        """
        scheme, _, given = authorization.partition(" ")
        digest = _digest(given.strip())
        # Every key is compared, each in constant time: how long it takes says nothing about any of them.
        entries = self._current().items()
        hits = [name for name, use in entries if hmac.compare_digest(use.entry.digest, digest)]
        if scheme.lower() != "bearer" or not hits:
            raise _unknown()
        return hits[0]

    def admit(self, client: str) -> Pass:
        """Let a client's request in.

        Raises:
            ApiError: 429 with Retry-After when it is beyond the client's limits.
        """
        use, now = self._current().get(client), self._clock()
        if use is None:
            raise _unknown()  # the key was taken away while the request's body came in
        entry = use.entry
        if entry.concurrent_requests is not None and use.running >= entry.concurrent_requests:
            raise _beyond("concurrentRequests", entry.concurrent_requests, 1.0)
        for name, bucket in (("requestsPerMinute", use.requests), ("tokensPerMinute", use.tokens)):
            if bucket is not None and (wait := bucket.wait(now)) > 0:
                raise _beyond(name, bucket.limit, wait)
        if use.requests is not None:
            use.requests.take(1)
        use.running += 1
        return Pass(client, use)

    def _current(self) -> dict[str, Use]:
        now = self._clock()
        if now - self._read_at >= RELOAD_SECONDS:
            self._read_at = now
            self._uses = {name: self._use(name, entry, now) for name, entry in read(self._folder).items()}
        return self._uses

    def _use(self, name: str, entry: Entry, now: float) -> Use:
        """Return what the client has used so far; a rotated key changes nothing about it, new limits begin afresh."""
        known = self._uses.get(name)
        if known is not None and _limits(known.entry) == _limits(entry):
            known.entry = entry
            return known
        rates = (entry.requests_per_minute, entry.tokens_per_minute)
        requests, tokens = (None if rate is None else Bucket(rate, now) for rate in rates)
        return Use(entry, requests, tokens)


def _unknown() -> ApiError:
    text = "the API key is missing or wrong; send Authorization: Bearer KEY"
    return ApiError(401, text, code="invalid_api_key")


def _limits(entry: Entry) -> tuple[int | None, ...]:
    return (entry.requests_per_minute, entry.tokens_per_minute, entry.concurrent_requests)


def _beyond(name: str, limit: int, wait: float) -> ApiError:
    text = f"this API key's limit is reached ({name}: {limit}); try again later"
    return ApiError(429, text, code="rate_limit_exceeded", retry_after=max(1, math.ceil(wait)))
