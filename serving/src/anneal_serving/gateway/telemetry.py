"""What the gateway tells about itself: one JSON line a request, and Prometheus metrics. Never a prompt."""

import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from opentelemetry import trace
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from anneal_api.runs import GatewayConfig
from anneal_serving.gateway.keys import Pass

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "taskName"}
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class JsonFormatter(logging.Formatter):
    """A log record as one line of JSON; `extra` becomes fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _OWN}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_to_stderr() -> None:
    """Send all logs to stderr as JSON; libraries only from warnings up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("anneal").setLevel(logging.INFO)


@dataclass
class Record:
    """What is known of a request when it ends."""

    route: str
    identity: str
    stream: bool = False
    status: int = 500
    prompt_tokens: int = 0
    completion_tokens: int = 0
    retries: int = 0
    version: str = ""
    replica: str = ""
    finish: str = ""
    error: str = ""
    client: str = ""
    """Name of the API key's entry; empty where no keys are asked for."""
    cached: bool = False
    leave: Pass = field(default_factory=Pass)
    span: trace.Span = trace.INVALID_SPAN
    began: float = field(default_factory=time.monotonic)
    queued: float | None = None
    first_token: float | None = None

    def fields(self, now: float) -> dict[str, Any]:
        """Return the log line's fields."""
        return {
            "requestId": self.identity,
            "client": self.client,
            "route": self.route,
            "stream": self.stream,
            "status": self.status,
            "promptTokens": self.prompt_tokens,
            "completionTokens": self.completion_tokens,
            "retries": self.retries,
            "cached": self.cached,
            "version": self.version,
            "replica": self.replica,
            "finishReason": self.finish,
            "error": self.error,
            "queueSeconds": _rounded(self.queued),
            "firstTokenSeconds": _rounded(self.first_token),
            "seconds": _rounded(now - self.began),
        }


@dataclass
class Attempt:
    """A version's work on a request: a request that is moved before its first token makes more than one.

    Times are of the monotonic clock.
    """

    version: str
    trial: str
    """The step of a rollout it began in."""
    began: float = 0.0
    """When a replica took it."""
    first: float = 0.0
    """When its first token came."""
    ended: float = 0.0
    tokens: int = 0


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


class Telemetry:
    """The gateway's metrics and its request log.

    `waiting` and a replica's own gauge of the same name add up: a request waits in one place only.
    """

    def __init__(self, waiting: Callable[[], float], replicas: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        self._log = logging.getLogger("anneal.gateway")
        self._gauge("anneal_requests_waiting", "Requests that wait for a slot.").set_function(waiting)
        self._gauge("anneal_gateway_replicas", "Replicas that are ready.").set_function(replicas)
        self.in_flight = self._gauge("anneal_gateway_requests_in_flight", "Requests being worked on.")
        self._requests = Counter(
            "anneal_gateway_requests", "Requests, ended.", ["route", "code"], registry=self.registry
        )
        self._tokens = Counter(
            "anneal_gateway_tokens",
            "Tokens, by client where keys are.",
            ["kind", "client"],
            registry=self.registry,
        )
        self._retries = Counter("anneal_gateway_retries", "Moves to another replica.", registry=self.registry)
        self._cached = Counter("anneal_gateway_cached", "Answers from memory.", registry=self.registry)
        self._current: str | None = None
        self._answers = self._by_version("requests", "Requests of a version, answered or failed.", "outcome")
        self._first_seconds = self._by_version(
            "first_token_seconds", "From a replica to the first token, summed."
        )
        self._decode_seconds = self._by_version("decode_seconds", "From the first token to the last, summed.")
        self._decode_tokens = self._by_version("decode_tokens", "Tokens after the first.")
        self._trial = Gauge(
            "anneal_gateway_trial_seconds", "Age of a rollout's step here.", ["trial"], registry=self.registry
        )
        self._seconds = self._histogram("anneal_gateway_request_seconds", "Duration of requests.")
        self._first = self._histogram("anneal_gateway_first_token_seconds", "Time to the first token.")

    def routed(self, config: GatewayConfig) -> None:
        """Begin to count anew when a step of a rollout begins; zeros tell that it has."""
        if config.trial == self._current:
            return
        self._current, began = config.trial, time.monotonic()
        for metric in (
            self._answers,
            self._first_seconds,
            self._decode_seconds,
            self._decode_tokens,
            self._trial,
        ):
            metric.clear()
        self._trial.labels(config.trial).set_function(lambda: time.monotonic() - began)
        for version in config.versions:
            for outcome in ("ok", "failed"):
                self._answers.labels(version.name, config.trial, outcome)

    def attempted(self, attempt: Attempt, failed: bool) -> None:
        """Count what a version has done, if the step it began in is not over."""
        if attempt.trial != self._current:
            return
        labels = attempt.version, attempt.trial
        self._answers.labels(*labels, "failed" if failed else "ok").inc()
        if not failed:
            self._first_seconds.labels(*labels).inc(attempt.first - attempt.began)
            self._decode_seconds.labels(*labels).inc(attempt.ended - attempt.first)
            self._decode_tokens.labels(*labels).inc(max(0, attempt.tokens - 1))

    def ended(self, record: Record) -> None:
        """Count and log a request that has ended."""
        now = time.monotonic()
        self._requests.labels(record.route, str(record.status)).inc()
        self._tokens.labels("prompt", record.client).inc(record.prompt_tokens)
        self._tokens.labels("completion", record.client).inc(record.completion_tokens)
        self._retries.inc(record.retries)
        self._cached.inc(record.cached)
        self._seconds.observe(now - record.began)
        if record.first_token is not None:
            self._first.observe(record.first_token)
        self._log.info("request", extra=record.fields(now))

    def exposition(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry)

    def _by_version(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"anneal_version_{name}", text, ["version", "trial", *labels], registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, registry=self.registry, buckets=_SECONDS)
