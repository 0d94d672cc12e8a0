"""Where curves go: TensorBoard files in the run's folder, and MLflow or Weights & Biases where the spec names them.

Everything is written by one thread behind a queue. A tracking server that is slow or away stops no step and ends
no run: what cannot be written is said once in the log. The libraries are imported there, on first use;
this module is light, as inspect asks it whether the image has them.
"""

import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from anneal_api.finetunejob import FineTuneJobSpec
from anneal_api.runs import FineTuneRun
from anneal_runtime.errors import Refused
from anneal_runtime.storage import is_local, join, resolve

Values = Mapping[str, float]
CLOSE_SECONDS = 30.0
"""What a slow tracking server gets to take in the last values; a pod has a grace period to keep."""
UPLOAD_SECONDS = 60.0
"""Between two copies of the event file to a store of objects, which takes it whole each time."""

UID_TAG = "anneal.uid"


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


class TensorBoard:
    """Event files in `<runs>/tensorboard`: one folder for all attempts, so one run with one curve."""

    def __init__(self, uri: str, first: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._remote = None if is_local(uri) else resolve(uri)
        self._scratch = TemporaryDirectory(prefix="tensorboard-")
        self._folder = Path(resolve(uri)[1] if self._remote is None else self._scratch.name)
        # What an attempt that was lost wrote from this step on is hidden: it is written again.
        self._writer = SummaryWriter(str(self._folder), purge_step=first)
        self._uploaded = time.monotonic()

    def record(self, step: int, values: Values) -> None:
        """Take in the values of a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # a killed pod must leave no gap before the checkpoint the next one goes on from
        if time.monotonic() - self._uploaded > UPLOAD_SECONDS:
            self._upload()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
        self._upload()
        self._scratch.cleanup()

    def _upload(self) -> None:
        self._uploaded = time.monotonic()
        if self._remote is not None:
            filesystem, path = self._remote
            for file in self._folder.iterdir():
                filesystem.put_file(str(file), f"{path}/{file.name}")


class MLflow:
    """One run of a tracking server, found again by the uid of the FineTuneJob; its experiment is the namespace.

    A run cannot take values back: steps it has already are not sent again, as they would be the same.
    """

    def __init__(self, run: FineTuneRun) -> None:
        import mlflow

        self._entities = mlflow.entities
        self._client = mlflow.MlflowClient(tracking_uri=run.spec.telemetry.mlflow_uri)
        found = self._client.get_experiment_by_name(run.namespace)
        experiment = found.experiment_id if found else self._client.create_experiment(run.namespace)
        runs = self._client.search_runs([experiment], f"tags.`{UID_TAG}` = '{run.uid}'")
        self._run: str = (
            runs[0].info.run_id
            if runs
            else self._client.create_run(experiment, run_name=run.name, tags={UID_TAG: run.uid}).info.run_id
        )
        self._client.update_run(self._run, "RUNNING")
        history = self._client.get_metric_history(self._run, "learning_rate")
        self._last = max((metric.step for metric in history), default=0)

    def record(self, step: int, values: Values) -> None:
        """Take in the values of a step."""
        if step > self._last:
            now = int(time.time() * 1000)
            metrics = [self._entities.Metric(name, value, now, step) for name, value in values.items()]
            self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        """Say that no more comes."""
        self._client.set_terminated(self._run)


class WeightsAndBiases:
    """One run of a project, found again by the uid of the FineTuneJob.

    A run takes no step before its last; those that a new attempt does again are the same.
    """

    def __init__(self, run: FineTuneRun) -> None:
        import wandb

        self._scratch = TemporaryDirectory(prefix="wandb-")
        folder = os.environ.get("WANDB_DIR", self._scratch.name)
        settings = wandb.Settings(silent=True, console="off", x_disable_stats=True)
        self._run = wandb.init(
            project=run.spec.telemetry.wandb_project,
            id=run.uid,
            name=run.name,
            group=run.namespace,
            resume="allow",
            dir=folder,
            settings=settings,
        )

    def record(self, step: int, values: Values) -> None:
        """Take in the values of a step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()
        self._scratch.cleanup()


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
