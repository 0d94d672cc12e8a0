"""A suite that is a task file of lm-eval: where it lies, and whether it can be run here."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from anneal_evaluation.results import Settings, SuiteResult
from anneal_evaluation.scoring import Generate
from anneal_runtime.errors import Refused
from anneal_runtime.storage import is_local, resolve

OFFLINE: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_EVALUATE_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
"""What a task's data and metrics are read under: a score depends on nothing that a hub may change."""


def is_task_file(suite: str) -> bool:
    """Whether a suite is a task, or a group of tasks, of lm-eval."""
    return suite.endswith(".yaml")


def place(suite: str) -> Path:
    """Return where a task file lies.

    Raises:
        Refused: it is not on this machine.
    """
    if not is_local(suite):
        raise Refused(
            "InvalidSuite",
            f"--suite {suite}: tasks of lm-eval are read from this machine; copy the task's folder here and give its "
            "place, such as file:///folder/task.yaml",
        )
    found = Path(resolve(suite)[1]).resolve()
    if not found.is_file():
        raise Refused(
            "NotFound",
            f"--suite {suite}: no such file; give the place of a task's YAML file, not a task's name",
        )
    return found


def check(suite: str, settings: Settings) -> None:
    """Raise Refused where a setting is given that the task file decides."""
    for option, given, unset, field in (
        ("--samples", settings.samples, 1, "repeats"),
        ("--temperature", settings.temperature, 0, "generation_kwargs"),
    ):
        if given != unset:
            raise Refused(
                "InvalidSettings",
                f"{option} {given:g}: {suite} is a task of lm-eval, whose own file says so; leave the option out and set "
                f"`{field}` there",
            )


def evaluate(
    suite: str, model: str, generate: Generate, settings: Settings, *, chat: bool
) -> list[SuiteResult]:
    """Return the results of every task of a task file; the process stays offline towards hubs afterwards.

    Raises:
        Refused: lm-eval is not installed, or cannot run the tasks on an endpoint.
    """
    found = place(suite)
    check(suite, settings)
    os.environ |= OFFLINE
    try:
        from anneal_evaluation.harness import run
    except ModuleNotFoundError as error:
        raise Refused(
            "NoLmEval",
            f"--suite {suite}: {error.name} is not installed here; in a checkout run `scripts/install lmeval` and start "
            "`.venv-lmeval/bin/python -m anneal_evaluation`, elsewhere `pip install anneal-evaluation[lm-eval]`",
        ) from error
    sys.dont_write_bytecode = True  # of a task's own Python, into the user's folder
    return run.evaluate(found, suite, model, generate, settings, chat=chat)
