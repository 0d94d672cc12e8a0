"""Curves through the libraries themselves: each step once, whatever was interrupted, and no run ends for them."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from anneal_api.runs import FineTuneRun
from anneal_runtime.errors import Refused
from anneal_runtime.storage import resolve
from anneal_trainers.pod import telemetry
from anneal_trainers.pod.curves import MLflow, TensorBoard, WeightsAndBiases
from anneal_trainers.pod.telemetry import Telemetry


def run_with(**wanted: Any) -> FineTuneRun:
    spec = {
        "baseModel": {"uri": "file:///unused"},
        "tasks": [{"name": "a", "data": {"uri": "file:///unused"}}],
        "output": {"uri": "file:///unused"},
        "telemetry": wanted,
    }
    identity = {"namespace": "demo", "name": "job", "uid": "1234-abcd"}
    accelerator = {"name": "cpu", "memoryGib": 1}
    return FineTuneRun.model_validate({**identity, "spec": spec, "accelerator": accelerator})


def attempts(make: Callable[[int], telemetry.Sink]) -> None:
    """Record five steps; then two of them again, with other values, and one more: a resumed run."""
    for steps, offset in (((1, 2, 3, 4, 5), 0.0), ((4, 5, 6), 0.5)):
        curves = Telemetry({"curves": make})
        for step in steps:
            curves.record(step, {"loss": step + offset, "task_loss/a": 1.0, "learning_rate": 0.1})
        curves.close()


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    found = EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in found.Scalars(name)]


def test_tensorboard_shows_every_step_once_after_a_resume(tmp_path: Path) -> None:
    attempts(lambda first: TensorBoard(f"file://{tmp_path}", first))
    assert scalars(tmp_path, "loss") == [(1, 1), (2, 2), (3, 3), (4, 4.5), (5, 5.5), (6, 6.5)]
    assert [step for step, _ in scalars(tmp_path, "task_loss/a")] == [1, 2, 3, 4, 5, 6]


def test_tensorboard_files_can_be_read_though_nobody_closes_them(tmp_path: Path) -> None:
    sink = TensorBoard(f"file://{tmp_path}", 1)
    for step in (1, 2):
        sink.record(step, {"loss": 1.0})
        assert [seen for seen, _ in scalars(tmp_path, "loss")] == list(range(1, step + 1))
    sink.close()


def test_tensorboard_files_reach_a_store_of_objects(tmp_path: Path) -> None:
    attempts(lambda first: TensorBoard("memory://curves", first))
    filesystem, path = resolve("memory://curves")
    try:
        for name in filesystem.ls(path, detail=False):
            filesystem.get_file(name, str(tmp_path / name.rsplit("/", 1)[-1]))
    finally:
        filesystem.rm(path, recursive=True)
    assert [step for step, _ in scalars(tmp_path, "loss")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*filesystem:FutureWarning")
def test_mlflow_gets_every_step_once_and_all_attempts_are_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = f"file://{tmp_path}"
    attempts(lambda _: MLflow(run_with(mlflowUri=uri)))
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("job", "FINISHED")
    history = client.get_metric_history(found.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [
        (1, 1),
        (2, 2),
        (3, 3),
        (4, 4),
        (5, 5),
        (6, 6.5),
    ]


@pytest.mark.slow
def test_wandb_gets_the_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    # Without Telemetry around it, which leaves a service alone that takes long to end.
    curves = WeightsAndBiases(run_with(wandbProject="p"))
    for step in (1, 2, 3):
        curves.record(step, {"loss": step / 2})
    curves.close()
    (folder,) = (tmp_path / "wandb").glob("offline-run-*-1234-abcd")
    (record,) = folder.glob("*.wandb")
    assert b"loss" in record.read_bytes()


def test_what_cannot_be_written_is_said_once_and_the_others_go_on(capfd: pytest.CaptureFixture[str]) -> None:
    told: list[int] = []

    class Broken:
        def record(self, step: int, values: telemetry.Values) -> None:
            raise OSError("no route to host")

        def close(self) -> None:
            told.append(-1)

    class Whole(Broken):
        def record(self, step: int, values: telemetry.Values) -> None:
            told.append(step)

    curves = Telemetry({"away": lambda _: Broken(), "unmade": lambda _: 1 / 0, "here": lambda _: Whole()})  # type: ignore[dict-item,return-value]
    for step in (1, 2):
        curves.record(step, {})
    curves.close()
    assert told == [1, 2, -1]
    lines = capfd.readouterr().err.splitlines()
    assert sorted(lines) == [
        "telemetry: away gets no more values: no route to host",
        "telemetry: unmade gets no more values: division by zero",
    ]


def test_a_server_that_does_not_answer_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "CLOSE_SECONDS", 0.1)
    answers = threading.Event()

    class Hung:
        def record(self, step: int, values: telemetry.Values) -> None:
            answers.wait(60)

        def close(self) -> None:
            answers.wait(60)

    curves = Telemetry({"hung": lambda _: Hung()})
    curves.record(1, {})
    curves.close()
    assert not answers.is_set()
    answers.set()


def test_without_sinks_nothing_is_started() -> None:
    curves = Telemetry({})
    before = threading.active_count()
    curves.record(1, {"loss": 1.0})
    assert threading.active_count() == before
    curves.close()


@pytest.mark.parametrize(
    ("wanted", "module"),
    [({"mlflowUri": "http://mlflow:5000"}, "mlflow"), ({"wandbProject": "p"}, "wandb")],
)
def test_a_library_the_image_lacks_is_named_with_its_field(
    monkeypatch: pytest.MonkeyPatch, wanted: dict[str, str], module: str
) -> None:
    spec = run_with(**wanted).spec
    telemetry.check(spec)
    monkeypatch.setattr(telemetry, "find_spec", lambda name: None)
    with pytest.raises(Refused) as caught:
        telemetry.check(spec)
    ((field, value),) = wanted.items()
    assert caught.value.reason == "LibraryMissing"
    assert f"spec.telemetry.{field}: {value} needs {module}" in caught.value.message
    telemetry.check(run_with().spec)


def test_a_runs_curves_go_where_its_spec_says(tmp_path: Path) -> None:
    assert sorted(telemetry.of_run(run_with(), "file:///r")._makers) == ["tensorboard"]
    both = run_with(mlflowUri="http://mlflow:5000", wandbProject="p")
    assert sorted(telemetry.of_run(both, "file:///r")._makers) == ["mlflow", "tensorboard", "wandb"]
    assert json.loads(both.spec.telemetry.model_dump_json())["mlflow_uri"]
