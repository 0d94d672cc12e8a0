"""A replica's load as gauges of Triton's own metrics endpoint, under the same names for both runtimes.

Triton's counters (nv_inference_*) stay near zero for decoupled models under load, so nothing scales on them.
The CPU runtime's scheduler knows its load; the tensorrtllm backend publishes its own, which is read and
passed on. Source of its names: the batch manager's statistics in TensorRT-LLM 1.2.
"""

import logging
import re
import threading
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from anneal_serving.triton import tensors

GAUGES = {
    "anneal_requests_waiting": "Requests that wait for a slot.",
    "anneal_requests_active": "Sequences that are generated now.",
    "anneal_kv_cache_used_ratio": "Share of the KV cache that live sequences hold.",
}
RELAY_SECONDS = 1.0
_SAMPLE = re.compile(r"^(nv_trt_llm_\w+)\{(.*?)\} (\S+)$", re.MULTILINE)
_KIND = re.compile(r'(?:request_type|kv_cache_block_type)="(\w+)"')


@dataclass(frozen=True)
class Load:
    """What a replica reports of itself."""

    waiting: int = 0
    active: int = 0
    kv_used: float = 0.0


class Gauges:
    """The gauges; kept by a model, because Triton drops a family with its object.

    Args:
        pb_utils: Triton's module, which only the stub has.
    """

    def __init__(self, pb_utils: Any) -> None:
        self._families = [
            pb_utils.MetricFamily(name=name, description=text, kind=pb_utils.MetricFamily.GAUGE)
            for name, text in GAUGES.items()
        ]
        self._metrics = [family.Metric(labels={"model": tensors.MODEL}) for family in self._families]

    def show(self, load: Load) -> None:
        """Set the gauges."""
        for metric, value in zip(self._metrics, (load.waiting, load.active, load.kv_used), strict=True):
            metric.set(value)


def load_of(text: str) -> Load:
    """Return the load in the tensorrtllm backend's metrics; what is not there counts as nothing."""
    found: dict[tuple[str, str], float] = {}
    for family, labels, value in _SAMPLE.findall(text):
        if kind := _KIND.search(labels):
            found[family, kind[1]] = float(value)
    requests, cache = "nv_trt_llm_request_metrics", "nv_trt_llm_kv_cache_block_metrics"
    return Load(
        waiting=int(found.get((requests, "waiting"), 0)),
        active=int(found.get((requests, "scheduled"), 0)),
        kv_used=found.get((cache, "fraction"), 0.0),
    )


class Relay:
    """Reads the backend's metrics once a second and passes the load on."""

    def __init__(self, url: str, show: Callable[[Load], None]) -> None:
        self._url = url
        self._show = show
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="relay", daemon=True).start()

    def close(self) -> None:
        """Stop reading."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(RELAY_SECONDS):
            try:
                with urllib.request.urlopen(self._url, timeout=RELAY_SECONDS) as answer:
                    self._show(load_of(answer.read().decode()))
            except OSError as error:
                # Before the server listens, and once it has stopped.
                logging.getLogger("anneal.triton").debug("no metrics at %s: %s", self._url, error)
