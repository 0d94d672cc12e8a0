"""Where curves go: TensorBoard files in the run's folder, and MLflow or Weights & Biases where the spec names them.

Everything is written by one thread behind a queue. A tracking server that is slow or away stops no step and ends
no run: what cannot be written is said once in the log. The libraries are imported there, on first use;
this module is light, as inspect asks it whether the image has them.
"""

import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Protocol

from anneal_api.finetunejob import FineTuneJobSpec
from anneal_api.runs import FineTuneRun
from anneal_runtime.errors import Refused
from anneal_runtime.storage import join
from anneal_trainers.pod.curves import MLflow, TensorBoard, WeightsAndBiases

Values = Mapping[str, float]
CLOSE_SECONDS = 30.0
"""What a slow tracking server gets to take in the last values; a pod has a grace period to keep."""


class Sink(Protocol):
    """One place that curves go to. Made with the first step it will be told, all of it in one thread."""

    def record(self, step: int, values: Values) -> None:
        """Take in the values of a step, which follows every step before."""

    def close(self) -> None:
        """Take leave."""


class Telemetry:
    """What the loop speaks to; without sinks (any rank but the first) it says nothing."""

    def __init__(self, makers: Mapping[str, Callable[[int], Sink]]) -> None:
        self._makers = makers
        self._sinks: dict[str, Sink] = {}
        self._work: queue.SimpleQueue[tuple[str, tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def record(self, step: int, values: Values) -> None:
        """Write the values of a step, counted from 1; returns at once."""
        if self._thread is None and self._makers:
            self._thread = threading.Thread(target=self._run, args=(step,), daemon=True)
            self._thread.start()
        self._put("record", step, values)

    def close(self) -> None:
        """Write what is left; a server that takes longer than CLOSE_SECONDS is left alone."""
        self._put("close")
        if self._thread is not None:
            self._work.put(None)
            self._thread.join(CLOSE_SECONDS)
            self._thread = None

    def _put(self, method: str, *arguments: Any) -> None:
        if self._thread is not None:
            self._work.put((method, arguments))

    def _run(self, first: int) -> None:
        for name, make in self._makers.items():
            with self._dropping(name):
                self._sinks[name] = make(first)
        while (work := self._work.get()) is not None:
            method, arguments = work
            for name, sink in [*self._sinks.items()]:
                with self._dropping(name):
                    getattr(sink, method)(*arguments)

    @contextmanager
    def _dropping(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of a library or a server that the run does not depend on
            self._sinks.pop(name, None)
            print(f"telemetry: {name} gets no more values: {error}", file=sys.stderr, flush=True)


def of_run(run: FineTuneRun, runs: str) -> Telemetry:
    """Return the telemetry of a run whose working folder is `runs`."""
    wanted = run.spec.telemetry
    makers: dict[str, Callable[[int], Sink]] = {
        "tensorboard": lambda first: TensorBoard(join(runs, "tensorboard"), first)
    }
    if wanted.mlflow_uri is not None:
        makers["mlflow"] = lambda _: MLflow(run)
    if wanted.wandb_project is not None:
        makers["wandb"] = lambda _: WeightsAndBiases(run)
    return Telemetry(makers)


def check(spec: FineTuneJobSpec) -> None:
    """Raise Refused where the spec names a service whose library this image lacks; imports nothing."""
    wanted = spec.telemetry
    needed = [
        ("mlflowUri", wanted.mlflow_uri, "mlflow", "mlflow-skinny"),
        ("wandbProject", wanted.wandb_project, "wandb", "wandb"),
    ]
    for field, value, module, package in needed:
        if value is not None and find_spec(module) is None:
            raise Refused(
                "LibraryMissing",
                f"spec.telemetry.{field}: {value} needs {module}, which this image does not have; build an image on it "
                f"with `pip install {package}` and name that one as images.trainers in the chart's values, or remove "
                "the field",
            )
