"""The training loop. Everything it needs is decided before; it reads top to bottom.

A step: draw units, weigh their rows over the whole step, sum weighted losses and gradients over this rank's
batches, add up over all ranks, clip, update. A step whose gradient is not finite changes nothing, on all ranks
alike, as all see the same sum. What follows a step is assessed after its checkpoint (validation, the balance
between tasks), and is done again by whoever goes on from there: SIGTERM ends it after a few batches.
"""

import math
import time
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch

from anneal_runtime.errors import TryAgain
from anneal_trainers.base.model import Trainee
from anneal_trainers.data.dataset import Split
from anneal_trainers.records import checkpoint
from anneal_trainers.records.ledger import DIGEST_BYTES, Entry
from anneal_trainers.training import assess
from anneal_trainers.training.early_stop import should_stop
from anneal_trainers.training.meter import Interrupted
from anneal_trainers.training.plan import Place
from anneal_trainers.training.resume import layout, resume
from anneal_trainers.training.run import Run
from anneal_trainers.training.tally import Tally

CLIP_NORM = 1.0
BETAS = (0.9, 0.999)
SKIP_LIMIT = 10
"""Steps in a row without a finite gradient after which the run has failed."""


class NonFiniteLoss(RuntimeError):
    """Too many steps in a row had no finite gradient."""


@dataclass(frozen=True)
class Step:
    """One step as it was taken: what the ledger says of it, and whether ranks want to save or to stop."""

    entry: Entry
    stop: bool
    save: bool
    tokens: int


def train(run: Run) -> checkpoint.State:
    """Train to the end of the last stage, from the newest checkpoint if there is one; return the final state.

    Raises:
        TryAgain: SIGTERM came; what was done is saved.
        NonFiniteLoss: SKIP_LIMIT steps in a row were skipped.
    """
    optimizer = make_optimizer(run.trainee)
    resumed = resume(run.store, run.group, run.trainee, optimizer)
    if resumed:
        run.channel.send({"checkpoint": resumed.step})  # all a launcher knows until one of this attempt's
    state = resumed or enter(run, first_state(run), 0)
    try:
        while True:
            state = train_phase(run, state, optimizer)
            if state.stage + 1 == len(run.phases):
                settle(run)
                return state
            state, optimizer = enter(run, state, state.stage + 1), make_optimizer(run.trainee)
    finally:
        if run.leads:
            run.store.close(run.ledger.take())


def train_phase(run: Run, state: checkpoint.State, optimizer: torch.optim.Optimizer) -> checkpoint.State:
    """Train to the end of the stage in progress."""
    state = assess_or_leave(run, state, optimizer, saved=True)
    while not is_over(run, state):
        began = time.monotonic()
        state, step = take_step(run, state, optimizer)
        run.ledger.append(step.entry)
        check_skips(state)
        due = step.stop or step.save or assess.is_saving(run, state) or assess.is_validating(run, state)
        if due:
            save(run, state, optimizer)
        if step.stop:
            leave(run, state)
        seconds = time.monotonic() - began
        state = assess_or_leave(run, state, optimizer, saved=due)
        report(run, state, step, seconds)
    return state


def assess_or_leave(
    run: Run, state: checkpoint.State, optimizer: torch.optim.Optimizer, *, saved: bool
) -> checkpoint.State:
    """Return the state with what is due after its step; leave where SIGTERM comes meanwhile."""
    try:
        return assess.assess(run, state)
    except Interrupted:
        if not saved:
            save(run, state, optimizer)
        leave(run, state)


def leave(run: Run, state: checkpoint.State) -> NoReturn:
    """End on SIGTERM, all ranks alike, once the step is saved."""
    settle(run)
    when = f"after step {state.step}, which is saved" if state.step else "before the first step"
    raise TryAgain("Preempted", f"stopped by SIGTERM {when}")


def is_over(run: Run, state: checkpoint.State) -> bool:
    """Say whether the stage in progress has taken its steps, or stops early."""
    total = run.phases[state.stage].plan.total_steps
    patience = run.spec.optimization.early_stopping.patience
    return state.step - state.stage_start >= total or should_stop(state.losses, patience)


def first_state(run: Run) -> checkpoint.State:
    """Return the state of a run that has done nothing."""
    return checkpoint.State(layout=layout(run.trainee))


def enter(run: Run, state: checkpoint.State, number: int) -> checkpoint.State:
    """Return the state at the start of a stage: only the adapter and what was counted goes on."""
    phase, tasks = run.phases[number], len(run.tasks)
    place = phase.plan.start()
    return replace(
        state,
        stage=number,
        stage_start=state.step,
        best_step=0,
        losses=[],
        best_task_losses={},
        task_history=[],
        raised_at=[0] * tasks,
        coba={},
        shares=list(phase.shares),
        consumed=list(place.consumed),
        drawn=list(place.drawn),
    )


def take_step(
    run: Run, state: checkpoint.State, optimizer: torch.optim.Optimizer
) -> tuple[checkpoint.State, Step]:
    """Take one step; return the state after it, and what it was."""
    run.channel.beat("step", step=state.step + 1)
    rows, after = draw(run, state)
    rate = run.phases[state.stage].rate(state.step - state.stage_start)
    sums = accumulate(run, rows, assess.task_weights(run, state), state.step)
    run.store.staged()
    norm = float(run.trainee.gradient.norm())
    finite = math.isfinite(norm) and math.isfinite(sums.loss)
    if finite:
        update(run.trainee, optimizer, norm, rate)
    state = replace(state, consumed=list(after.consumed), drawn=list(after.drawn))
    state = replace(advance(state, sums.loss, finite), passes=passes(run.train, after.consumed))
    entry = Entry(
        step=state.step,
        stage=state.stage,
        learning_rate=rate,
        loss=sums.loss,
        gradient_norm=norm,
        finite=finite,
        task_losses=sums.task_losses(run.tasks),
        rows=[digest.tobytes().hex() for digest in run.train.digests[rows, :DIGEST_BYTES]],
        attempt=run.attempt,
        world=run.group.world,
    )
    stop, save_due = (bool(asked) for asked in sums.asked)
    return state, Step(entry, stop, save_due, int(run.train.lengths[rows].sum()))


def draw(run: Run, state: checkpoint.State) -> tuple[npt.NDArray[np.int64], Place]:
    """Return the rows of the next step, and the plan's place after it."""
    place = Place(state.step - state.stage_start, tuple(state.consumed), tuple(state.drawn))
    units, after = run.phases[state.stage].plan.take(place, state.shares)
    return run.train.rows_of(units), after


def accumulate(
    run: Run, rows: npt.NDArray[np.int64], task_weights: npt.NDArray[np.float64], step: int
) -> Tally:
    """Leave the step's gradient, summed over all ranks, in the flat buffer; return what was summed beside it."""
    trainee, optimization = run.trainee, run.spec.optimization
    weights = run.goal.weights(run.train, rows, optimization.task_balance, task_weights)
    torch.manual_seed(_seed(optimization.seed, step, run.group.rank))
    trainee.model.train()
    trainee.gradient.zero_()
    tally = Tally(len(run.tasks), trainee.device)
    for part, tasks in run.meter.parts(run.train, rows, weights, "compute"):
        part.loss.backward()  # type: ignore[no-untyped-call]
        tally.add(part, tasks)
    tally.ask(stop=run.stop.asked, save=run.leads and run.timer.due())
    run.channel.beat("reduce")
    run.group.sum(trainee.gradient)
    run.group.sum(tally.numbers)
    return tally


def update(trainee: Trainee, optimizer: torch.optim.Optimizer, norm: float, rate: float) -> None:
    """Clip the gradient, whose norm is given, and apply it."""
    trainee.gradient.mul_(min(1.0, CLIP_NORM / (norm + 1e-6)))
    optimizer.param_groups[0]["params"][0].grad = trainee.gradient
    optimizer.param_groups[0]["lr"] = rate
    optimizer.step()


def advance(state: checkpoint.State, loss: float, finite: bool) -> checkpoint.State:
    """Return the state one step on."""
    return replace(
        state,
        step=state.step + 1,
        skipped=state.skipped + (not finite),
        skipped_in_row=0 if finite else state.skipped_in_row + 1,
        train_loss=loss if finite else state.train_loss,
    )


def check_skips(state: checkpoint.State) -> None:
    """Raise NonFiniteLoss where SKIP_LIMIT steps in a row were not finite."""
    if state.skipped_in_row >= SKIP_LIMIT:
        raise NonFiniteLoss(
            f"{state.skipped_in_row} steps in a row up to step {state.step} had no finite gradient; "
            "lower spec.optimization.learningRate or look at the rows of these steps in the ledger"
        )


def passes(split: Split, consumed: tuple[int, ...]) -> list[float]:
    """Return how often each task's units have been taken in the stage, [tasks]."""
    units = np.bincount(split.unit_tasks, minlength=len(consumed))
    return [taken / max(1, int(there)) for taken, there in zip(consumed, units, strict=True)]


def save(run: Run, state: checkpoint.State, optimizer: torch.optim.Optimizer) -> None:
    """Save from rank 0: all ranks hold the same."""
    run.channel.beat("save")
    if run.leads:
        live = checkpoint.live_tensors(run.trainee.flat, optimizer)
        run.store.save(state, live, run.ledger.take())


def settle(run: Run) -> None:
    """Return, on every rank, once the newest checkpoint is written.

    A rank that ended earlier would be taken for a failed one, and the writing one killed with it.
    """
    run.channel.beat("save")
    run.store.wait()
    run.group.sum(torch.zeros(1, device=run.trainee.device))


def report(run: Run, state: checkpoint.State, step: Step, seconds: float) -> None:
    """Tell the launcher where the run stands, and the record what the step was."""
    entry, validation = step.entry, state.losses[-1] if state.losses else None
    total = state.stage_start + sum(phase.plan.total_steps for phase in run.phases[state.stage :])
    speed = round(step.tokens / seconds, 1)
    progress = {
        "step": state.step,
        "totalSteps": total,
        "stage": run.phases[state.stage].name,
        "loss": state.train_loss,
        "validationLoss": validation,
        "taskLosses": state.task_losses,
        "passes": dict(zip(run.tasks, state.passes, strict=True)),
        "learningRate": entry.learning_rate,
        "gradientNorm": entry.gradient_norm if entry.finite else None,
        "tokensPerSecond": speed,
        "latestCheckpoint": run.store.latest,
        "resumedStep": run.store.resumed,
        "bestCheckpoint": state.best_step or None,
    }
    run.channel.send({"progress": progress, "skipped": state.skipped})
    if run.leads:
        run.record(state.step, figures(run, state, entry) | {"tokens_per_second": speed})


def figures(run: Run, state: checkpoint.State, entry: Entry) -> dict[str, float]:
    """Return the curves' values after a step."""
    named: dict[str, Any] = {
        "train/task": entry.task_losses,
        "validation/task": state.task_losses,
        "weight": dict(zip(run.tasks, assess.task_weights(run, state).tolist(), strict=True)),
        "share": dict(zip(run.tasks, state.shares, strict=False)),
        "passes": dict(zip(run.tasks, state.passes, strict=True)),
    }
    values = {f"{group}/{name}": value for group, found in named.items() for name, value in found.items()}
    values |= {"train/loss": entry.loss, "train/gradient_norm": entry.gradient_norm}
    values |= {"learning_rate": entry.learning_rate, "skipped": float(state.skipped)}
    return values | ({"validation/loss": state.losses[-1]} if state.losses else {})


def make_optimizer(trainee: Trainee) -> torch.optim.Optimizer:
    """Return AdamW without decay over the flat buffer, with moments at 0; one pass over memory a step."""
    parameter = torch.nn.Parameter(trainee.flat, requires_grad=True)
    parameter.grad = trainee.gradient
    return torch.optim.AdamW([parameter], lr=0.0, betas=BETAS, weight_decay=0.0, fused=True)


def _seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])
