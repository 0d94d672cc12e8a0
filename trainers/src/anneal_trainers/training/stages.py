"""The stages of a run, each with its plan, learning rate and shares; a run without stages is one of all tasks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from anneal_api.finetunejob import FineTuneJobSpec, Stage
from anneal_runtime.errors import Refused
from anneal_trainers.data.dataset import Split
from anneal_trainers.training import plan, schedule


@dataclass(frozen=True)
class Phase:
    """A stage as the loop runs it.

    tasks: indices of its tasks.
    shares: [tasks of the dataset], those of the first step; empty where shares are natural.
    """

    name: str
    tasks: tuple[int, ...]
    plan: plan.Plan
    rate: Callable[[int], float]
    shares: tuple[float, ...]


def phases(spec: FineTuneJobSpec, names: Sequence[str], train: Split, validation: Split) -> list[Phase]:
    """Return what the loop runs one after the other.

    Raises:
        Refused: a balance by validation losses, and a task without validation rows.
    """
    check_validation(spec, [name for k, name in enumerate(names) if not np.any(validation.tasks == k)])
    units = plan.Units(train.unit_lengths, train.unit_tasks, train.difficulty)
    if not spec.stages:
        whole = Stage(name="all", learning_rate=spec.optimization.learning_rate)
        return [_phase(spec, whole, 0, names, units, spec.optimization.epochs)]
    return [_phase(spec, stage, i, names, units, stage.epochs) for i, stage in enumerate(spec.stages)]


def check_validation(spec: FineTuneJobSpec, absent: Sequence[str]) -> None:
    """Raise Refused where tasks are balanced by validation losses, and those `absent` have no row for it."""
    balance = spec.optimization.task_balance
    if balance in ("coba", "lossDrop") and absent:
        raise Refused(
            "NoValidationRows",
            f"spec.optimization.taskBalance: {balance} follows each task's validation loss, and "
            f"{', '.join(absent)} has no validation row; raise spec.data.split.validation or add rows",
        )


def _phase(
    spec: FineTuneJobSpec,
    stage: Stage,
    number: int,
    names: Sequence[str],
    units: plan.Units,
    epochs: float | None,
) -> Phase:
    tasks = tuple(k for k, name in enumerate(names) if not stage.tasks or name in stage.tasks)
    chosen, optimization = units.of_tasks(tasks), spec.optimization
    natural = plan.natural(
        units,
        len(names),
        optimization,
        chosen=chosen,
        stage=number,
        curriculum=stage.curriculum,
        epochs=epochs,
    )
    total, shares = natural.total_steps, _shares(spec, names, chosen, units)
    steps: plan.Plan = natural
    if shares:
        steps = plan.shared(units, len(names), optimization, total, stage=number, curriculum=stage.curriculum)
    peak = stage.learning_rate or optimization.learning_rate
    return Phase(stage.name, tasks, steps, schedule.rate(optimization, peak, total), shares)


def _shares(
    spec: FineTuneJobSpec, names: Sequence[str], chosen: plan.Ints, units: plan.Units
) -> tuple[float, ...]:
    wanted = {task.name: task.sampling_share for task in spec.tasks}
    if spec.optimization.task_balance != "lossDrop" and not any(wanted.values()):
        return ()
    tokens = np.bincount(units.tasks[chosen], units.lengths[chosen], minlength=len(names))
    return tuple(plan.first_shares([wanted[name] for name in names], tokens.astype(np.float64)).tolist())
