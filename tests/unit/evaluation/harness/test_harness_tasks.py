import os
from pathlib import Path

import pytest

from anneal_evaluation import __main__ as command
from anneal_evaluation.harness import tasks


@pytest.fixture
def task(tmp_path: Path) -> str:
    (tmp_path / "task.yaml").write_text("task: t\n")
    return f"file://{tmp_path}/task.yaml"


def told(suite: str, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """Return what the command says of a suite that it refuses."""
    place = ["--endpoint", "http://127.0.0.1:9/v1", "--model", "m", "--to", "/nowhere"]
    assert command.main(["run", "--suite", suite, *place, *options]) == os.EX_USAGE
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("suite", "remedy"),
    [
        ("file:///nowhere/task.yaml", "no such file; give the place of a task's YAML file"),
        ("s3://bucket/task.yaml", "copy the task's folder here"),
        ("task.yaml", "copy the task's folder here"),
    ],
)
def test_a_task_that_is_not_here_is_named_with_what_to_do(
    suite: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = told(suite, capsys)
    assert f"--suite {suite}: " in said
    assert remedy in said


@pytest.mark.parametrize(
    ("option", "value", "field"),
    [("--samples", "3", "repeats"), ("--temperature", "0.5", "generation_kwargs")],
)
def test_what_the_task_file_decides_is_not_taken_from_the_command(
    task: str, option: str, value: str, field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = told(task, capsys, option, value)
    assert f"{option} {value}: {task}" in said
    assert f"set `{field}` there" in said


def test_without_lm_eval_it_is_said_where_to_get_it(
    task: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in tasks.OFFLINE:
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    said = told(task, capsys)
    assert "lm_eval is not installed here" in said
    assert "scripts/install lmeval" in said
