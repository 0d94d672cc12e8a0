"""The operator's own figures, and the few lines that Prometheus' text format (0.0.4) needs.

They live in memory and start anew with the process, as counters may; no decision looks at them.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

log = logging.getLogger(__name__)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds in seconds, as Prometheus' clients choose them."""
FAMILIES = {
    "anneal_queue_depth": ("gauge", "Resources that wait for a worker now."),
    "anneal_reconciles_total": ("counter", "Looks at a resource, by kind and result."),
    "anneal_reconcile_seconds": ("histogram", "How long a look took, by kind."),
    "anneal_errors_total": ("counter", "Looks that failed, by kind and class of error."),
    "anneal_writes_total": ("counter", "Writes to the API server, by verb and kind."),
    "anneal_attempt_ends_total": ("counter", "Attempts of training groups that ended, by cause."),
    "anneal_accelerator_seconds_total": (
        "counter",
        "Accelerators times seconds, by kind: of attempts counted when they end, of deployments as their status is.",
    ),
    "anneal_goodput_ratio": ("gauge", "Useful step time over the time since a job's first attempt began."),
}
Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counts what it is told; may be used from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[tuple[str, Labels], float] = {}
        self.queue_depth: Callable[[], int] = lambda: 0

    def count(self, name: str, amount: float = 1.0, /, **labels: str) -> None:
        """Add to a counter."""
        key = (name, _labels(labels))
        with self._lock:
            self._values[key] = self._values.get(key, 0.0) + amount

    def tell(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        with self._lock:
            self._values[name, _labels(labels)] = value

    def forget(self, name: str, /, **labels: str) -> None:
        """Drop a gauge of something that is gone."""
        with self._lock:
            self._values.pop((name, _labels(labels)), None)

    @contextmanager
    def look(self, kind: str) -> Iterator[None]:
        """Count a look at a resource, how long it took, and the error it ended with."""
        started = time.perf_counter()
        try:
            yield
        except Exception as error:
            name = getattr(error, "reason", "") or type(error).__name__
            self.count("anneal_errors_total", kind=kind, error=name)
            self._looked(kind, "error", time.perf_counter() - started)
            raise
        self._looked(kind, "ok", time.perf_counter() - started)

    def _looked(self, kind: str, result: str, seconds: float) -> None:
        self.count("anneal_reconciles_total", kind=kind, result=result)
        for bound in (*map(str, BUCKETS), "+Inf"):
            self.count("anneal_reconcile_seconds_bucket", float(seconds <= float(bound)), kind=kind, le=bound)
        self.count("anneal_reconcile_seconds_sum", seconds, kind=kind)
        self.count("anneal_reconcile_seconds_count", kind=kind)

    def text(self) -> str:
        """Return everything as Prometheus reads it."""
        with self._lock:
            values = dict(self._values)
        values["anneal_queue_depth", ()] = float(self.queue_depth())
        return "".join(f"{line}\n" for family in FAMILIES for line in _family(family, values))


def _family(family: str, values: dict[tuple[str, Labels], float]) -> Iterator[str]:
    kind, purpose = FAMILIES[family]
    members = [family, *(f"{family}_{part}" for part in ("bucket", "sum", "count") if kind == "histogram")]
    yield f"# HELP {family} {purpose}"
    yield f"# TYPE {family} {kind}"
    for (name, labels), value in values.items():
        if name in members:
            shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
            yield f"{name}{{{shown}}} {value:g}" if shown else f"{name} {value:g}"


def _labels(labels: dict[str, str]) -> Labels:
    return tuple(sorted(labels.items()))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def serve(metrics: Metrics, port: int) -> ThreadingHTTPServer | None:
    """Answer /metrics from a thread; the operator works on where the port is taken."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/metrics":
                self.send_error(404)
                return
            body = metrics.text().encode()
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: who scrapes is no news."""

    try:
        server = ThreadingHTTPServer(("", port), Handler)
    except OSError as error:
        log.warning("metrics are not served: port %d: %s", port, error)
        return None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
