"""The libraries that draw curves, each behind the same three calls; imported when the first value comes.

All are made and called in one thread, by `telemetry.Telemetry`, which also answers for their errors.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from anneal_api.runs import FineTuneRun
from anneal_runtime.storage import is_local, resolve

Values = Mapping[str, float]
UPLOAD_SECONDS = 60.0
"""Between two copies of the event file to a store of objects, which takes it whole each time."""
UID_TAG = "anneal.uid"


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
