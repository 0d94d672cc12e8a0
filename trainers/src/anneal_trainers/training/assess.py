"""What follows a step: validation on its beat, and the balance between tasks that follows their validation losses.

All of it is a function of the state and the weights, so a run that goes on from a checkpoint does it again.
"""

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from anneal_trainers.records import checkpoint
from anneal_trainers.training import coba, loss_drop
from anneal_trainers.training.run import Run

DEFAULT_EVERY = 100
"""Steps between checkpoints and between validations where the spec says nothing."""
Floats = npt.NDArray[np.float64]


def is_due(step: int, every: int, total: int) -> bool:
    """Say whether what is done every so many steps, and after the last one, is done after `step` steps."""
    return step > 0 and (step == total or step % every == 0)


def is_saving(run: Run, state: checkpoint.State) -> bool:
    """Say whether a checkpoint is due by steps; one by minutes is asked for in the step's sums."""
    every, total = run.spec.checkpoint, run.phases[state.stage].plan.total_steps
    steps = every.every_steps or (total if every.every_minutes else DEFAULT_EVERY)
    return is_due(state.step - state.stage_start, steps, total)


def is_validating(run: Run, state: checkpoint.State) -> bool:
    """Say whether a validation is due: with every checkpoint by steps, if the spec says nothing else."""
    every = run.spec.evaluation.every_steps or run.spec.checkpoint.every_steps or DEFAULT_EVERY
    return is_due(state.step - state.stage_start, every, run.phases[state.stage].plan.total_steps)


def task_weights(run: Run, state: checkpoint.State) -> Floats:
    """Return w_k of the next step, [tasks]: the user's, times CoBa's where it balances."""
    by_name = {task.name: task.weight for task in run.spec.tasks}
    weights = np.asarray([by_name[name] for name in run.tasks], np.float64)
    if run.spec.optimization.task_balance != "coba":
        return weights
    return weights * coba.weights(_coba_state(run, state), run.spec.optimization.coba)


def assess(run: Run, state: checkpoint.State) -> checkpoint.State:
    """Return the state with everything that is due after its step; before the first, with the losses it begins at."""
    optimization = run.spec.optimization
    if state.step == 0:
        state = replace(state, first_task_losses=by_name(run.tasks, validate(run, state)[1]))
    inside = state.step - state.stage_start
    if optimization.task_balance == "coba" and inside % optimization.coba.every_steps == 0:
        state = observe(run, state, inside)
    if is_validating(run, state):
        loss, task_losses = validate(run, state)
        state = with_validation(state, loss, task_losses, run.tasks)
        if optimization.task_balance == "lossDrop":
            state = move_shares(state, run.phases[state.stage].shares)
    return state


def observe(run: Run, state: checkpoint.State, inside: int) -> checkpoint.State:
    """Return the state with one more of CoBa's measurements, of the stage's tasks."""
    constants, tasks = run.spec.optimization.coba, run.phases[state.stage].tasks
    found = run.meter.total(run.validation, run.watched, np.zeros(len(run.watched))).means()
    losses = [loss if k in tasks else None for k, loss in enumerate(found)]
    return replace(state, coba=vars(coba.observe(_coba_state(run, state), inside, losses, constants)))


def validate(run: Run, state: checkpoint.State) -> tuple[float | None, list[float]]:
    """Return the balanced loss over the validation rows of the stage's tasks, and the mean loss of every task.

    The balance is that of the user's weights: CoBa's move, and losses of different steps must compare.
    """
    split = run.validation
    if len(split) == 0:
        return None, [math.nan] * len(run.tasks)
    optimization, tasks = run.spec.optimization, run.phases[state.stage].tasks
    by_name = {task.name: task.weight for task in run.spec.tasks}
    weights, inside = np.asarray([by_name[name] for name in run.tasks]), np.isin(split.tasks, tasks)
    rows, of_rows = np.arange(len(split)), np.zeros(len(split))
    if inside.any():
        of_rows[inside] = run.goal.weights(split, rows[inside], optimization.task_balance, weights)
    found = run.meter.total(split, rows, of_rows)
    return found.loss if inside.any() else None, found.means()


def by_name(tasks: list[str], losses: list[float]) -> dict[str, float]:
    """Return losses by task, without tasks that have none."""
    return {name: loss for name, loss in zip(tasks, losses, strict=True) if not math.isnan(loss)}


def with_validation(
    state: checkpoint.State, loss: float | None, task_losses: list[float], tasks: list[str]
) -> checkpoint.State:
    """Return the state with one more validation; without validation rows the newest step is the best.

    A loss that is no number counts as infinite: nothing is worse.
    """
    named = by_name(tasks, task_losses)
    if loss is None:
        return replace(state, best_step=state.step, task_losses=named, best_task_losses=named)
    loss = loss if math.isfinite(loss) else math.inf
    if not state.losses or loss < min(state.losses):
        state = replace(state, best_step=state.step, best_task_losses=named)
    history = [*state.task_history, task_losses]
    return replace(state, losses=[*state.losses, loss], task_losses=named, task_history=history)


def move_shares(state: checkpoint.State, first: tuple[float, ...]) -> checkpoint.State:
    """Return the state with the shares that its losses ask for; what was drawn by others no longer counts."""
    shares, raised = loss_drop.next_shares(
        np.asarray(first), np.asarray(state.shares), np.asarray(state.task_history), state.raised_at
    )
    if shares.tolist() == state.shares:
        return state
    return replace(state, shares=shares.tolist(), raised_at=raised, drawn=[0] * len(state.drawn))


def _coba_state(run: Run, state: checkpoint.State) -> coba.State:
    return coba.State(**state.coba) if state.coba else coba.start(len(run.tasks))
