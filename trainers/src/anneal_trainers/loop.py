"""The training loop. Everything it needs is decided before; it reads top to bottom.

A step: take this rank's share of the step's rows, sum weighted losses and gradients over its packs, add
up over all ranks in one all-reduce of a flat buffer, clip, update. A step whose gradient is not finite
changes nothing, on all ranks alike, as all see the same sum. A checkpoint is written before the
validation of its step, which is part of it no more than the next step is: SIGTERM never waits for one.
"""

import math
import signal
import time
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from anneal_api.finetunejob import FineTuneJobSpec
from anneal_runtime.errors import TryAgain
from anneal_trainers import checkpoint, packing
from anneal_trainers.batches import Batch, batches
from anneal_trainers.channel import Channel
from anneal_trainers.dataset import Split
from anneal_trainers.early_stop import should_stop
from anneal_trainers.group import Group
from anneal_trainers.losses import row_weights
from anneal_trainers.model import Trainee
from anneal_trainers.plan import Plan
from anneal_trainers.schedule import Cosine

CLIP_NORM = 1.0
BETAS = (0.9, 0.999)
SKIP_LIMIT = 10
"""Steps in a row without a finite gradient after which the run has failed."""
DEFAULT_EVERY = 100


class NonFiniteLoss(RuntimeError):
    """Too many steps in a row had no finite gradient."""


@dataclass
class Run:
    """What the loop works on."""

    spec: FineTuneJobSpec
    tasks: list[str]
    train: Split
    validation: Split
    trainee: Trainee
    group: Group
    store: checkpoint.Store
    channel: Channel
    stop: "StopFlag"

    @property
    def task_weights(self) -> npt.NDArray[np.float64]:
        """Return w_k in the order of the dataset's tasks."""
        weights = {task.name: task.weight for task in self.spec.tasks}
        return np.asarray([weights[name] for name in self.tasks], np.float64)


class StopFlag:
    """Set by SIGTERM; ranks agree on it in the all-reduce of a step."""

    def __init__(self) -> None:
        self.asked = False

    def listen(self) -> None:
        """Let SIGTERM set the flag."""
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "asked", True))


@dataclass(frozen=True)
class Sums:
    """What ranks add up in a step, beside gradients."""

    loss: float
    stops: float


def train(run: Run) -> checkpoint.State:
    """Train to the end, from the newest checkpoint if there is one; return the final state.

    Raises:
        TryAgain: SIGTERM came; what was done is saved.
        NonFiniteLoss: SKIP_LIMIT steps in a row were skipped.
    """
    spec, trainee, optimization = run.spec, run.trainee, run.spec.optimization
    plan = Plan(run.train.lengths, optimization)
    rate = Cosine(
        optimization.learning_rate,
        optimization.min_learning_rate,
        optimization.warmup_steps,
        plan.total_steps,
    )
    optimizer = torch.optim.AdamW([_parameter(trainee)], lr=rate(0), betas=BETAS, weight_decay=0.0)
    save_every = spec.checkpoint.every_steps or DEFAULT_EVERY
    validate_every = spec.evaluation.every_steps or save_every
    patience, total = optimization.early_stopping.patience, plan.total_steps
    state = resume(run, optimizer)
    if is_due(state.step, validate_every, total):
        state = with_validation(state, *validate(run), run.tasks)
    while state.step < total and not should_stop(state.losses, patience):
        began = time.monotonic()
        rows = plan.rows(state.step)
        sums = accumulate(run, rows, state.step)
        run.store.staged()
        finite = math.isfinite(sums.loss) and update(trainee, optimizer, rate(state.step))
        state = advance(state, sums.loss, finite)
        validating = is_due(state.step, validate_every, total)
        if validating or sums.stops or is_due(state.step, save_every, total):
            save(run, state, optimizer)
        if sums.stops:
            settle(run)
            raise TryAgain("Preempted", f"stopped by SIGTERM after step {state.step}, which is saved")
        if validating:
            state = with_validation(state, *validate(run), run.tasks)
        tokens = int(run.train.lengths[rows].sum())
        report(run, state, total, rate(state.step - 1), tokens / (time.monotonic() - began))
    settle(run)
    return state


def is_due(step: int, every: int, total: int) -> bool:
    """Say whether what is done every so many steps, and after the last one, is done after `step` steps."""
    return step > 0 and (step == total or step % every == 0)


def resume(run: Run, optimizer: torch.optim.Optimizer) -> checkpoint.State:
    """Return the state to go on from: rank 0 decides for the newest checkpoint, and all restore that very one.

    Raises:
        TryAgain: a rank cannot read it.
        ValueError: it was made of another model.
    """
    found = run.store.newest() if run.group.rank == 0 else None
    # Only rank 0 holds anything but zeros, so the sum is a broadcast.
    choice = torch.zeros(33, dtype=torch.float64, device=run.trainee.device)
    if found is not None:
        choice[0] = found[0].step
        choice[1:] = torch.tensor(list(bytes.fromhex(found[0].sha256)), dtype=torch.float64)
    run.group.sum(choice)
    step, digest = int(choice[0]), bytes(choice[1:].int().tolist()).hex()
    if step == 0:
        return checkpoint.State(layout=layout(run.trainee))
    if run.group.rank != 0:
        found = run.store.at(step, digest)
    readers = torch.tensor([float(found is not None)], device=run.trainee.device)
    run.group.sum(readers)
    if found is None or int(readers) < run.group.world:
        raise TryAgain(
            "CheckpointUnreadable",
            f"only {int(readers)} of {run.group.world} ranks can read the checkpoint of step {step}",
        )
    state, tensors = found
    if state.layout != layout(run.trainee):
        raise ValueError(
            f"the checkpoint of step {step} holds {state.layout}; the model has {layout(run.trainee)}"
        )
    checkpoint.restore(tensors, run.trainee.flat, optimizer)
    return state


def accumulate(run: Run, rows: npt.NDArray[np.int64], step: int) -> Sums:
    """Leave the step's gradient, summed over all ranks, in the flat buffer; return the loss and who stops."""
    trainee, spec = run.trainee, run.spec
    weights = np.zeros(len(run.train))
    weights[rows] = row_weights(
        spec.optimization.task_balance, run.train.tasks[rows], run.train.targets[rows], run.task_weights
    )
    torch.manual_seed(_seed(spec.optimization.seed, step, run.group.rank))
    trainee.model.train()
    trainee.gradient.zero_()
    loss = torch.zeros((), device=trainee.device)
    for batch in _share(run, run.train, rows):
        run.channel.beat("compute")
        part, _ = trainee.losses(
            batch.to(trainee.device), torch.from_numpy(weights[batch.rows]).float().to(trainee.device)
        )
        part.backward()  # type: ignore[no-untyped-call]
        loss += part.detach()
    extra = torch.stack([loss, torch.tensor(float(run.stop.asked), device=trainee.device)])
    run.channel.beat("reduce")
    buffer = torch.cat([trainee.gradient, extra])
    run.group.sum(buffer)
    trainee.gradient.copy_(buffer[:-2])
    return Sums(float(buffer[-2]), float(buffer[-1]))


def update(trainee: Trainee, optimizer: torch.optim.Optimizer, rate: float) -> bool:
    """Clip and apply the gradient; return False and change nothing where it is not finite."""
    norm = trainee.gradient.norm()
    if not torch.isfinite(norm):
        return False
    trainee.gradient.mul_(torch.clamp(CLIP_NORM / (norm + 1e-6), max=1.0))
    parameter = optimizer.param_groups[0]["params"][0]
    parameter.grad = trainee.gradient
    optimizer.param_groups[0]["lr"] = rate
    optimizer.step()
    return True


def advance(state: checkpoint.State, loss: float, finite: bool) -> checkpoint.State:
    """Return the state one step on.

    Raises:
        NonFiniteLoss: SKIP_LIMIT steps in a row were not finite.
    """
    in_row = 0 if finite else state.skipped_in_row + 1
    if in_row >= SKIP_LIMIT:
        raise NonFiniteLoss(
            f"{in_row} steps in a row up to step {state.step + 1} had no finite gradient; "
            "lower spec.optimization.learningRate or look at the rows of these steps"
        )
    return replace(
        state,
        step=state.step + 1,
        skipped=state.skipped + (not finite),
        skipped_in_row=in_row,
        train_loss=loss if finite else state.train_loss,
    )


def validate(run: Run) -> tuple[float | None, list[float | None]]:
    """Return the balanced loss over all validation rows, and the mean loss of each task; None without rows."""
    split, trainee = run.validation, run.trainee
    if len(split) == 0:
        return None, [None] * len(run.tasks)
    balance = run.spec.optimization.task_balance
    weights = row_weights(balance, split.tasks, split.targets, run.task_weights)
    sums = np.zeros((1 + len(run.tasks), 2))
    trainee.model.eval()
    with torch.no_grad():
        for batch in _share(run, split, np.arange(len(split))):
            run.channel.beat("validate")
            ones = torch.ones(len(batch.targets), device=trainee.device)
            nll = trainee.losses(batch.to(trainee.device), ones)[1].double().cpu().numpy()
            sums[0, 0] += (nll * weights[batch.rows]).sum()
            np.add.at(sums[1:, 0], split.tasks[batch.rows], nll)
            np.add.at(sums[1:, 1], split.tasks[batch.rows], 1)
    total = torch.from_numpy(sums).to(trainee.device)
    run.group.sum(total)
    sums = total.cpu().numpy()
    return float(sums[0, 0]), [float(s / n) if n else None for s, n in sums[1:]]


def with_validation(
    state: checkpoint.State, loss: float | None, task_losses: list[float | None], tasks: list[str]
) -> checkpoint.State:
    """Return the state with one more validation; without validation rows the newest step is the best.

    A loss that is no number counts as infinite: nothing is worse.
    """
    if loss is None:
        return replace(state, best_step=state.step)
    loss = loss if math.isfinite(loss) else math.inf
    named = {name: value for name, value in zip(tasks, task_losses, strict=True) if value is not None}
    if not state.losses or loss < min(state.losses):
        state = replace(state, best_step=state.step, best_task_losses=named)
    return replace(state, losses=[*state.losses, loss], task_losses=named)


def save(run: Run, state: checkpoint.State, optimizer: torch.optim.Optimizer) -> None:
    """Save from rank 0: all ranks hold the same."""
    run.channel.beat("save")
    if run.group.rank == 0:
        run.store.save(state, checkpoint.live_tensors(run.trainee.flat, optimizer))


def settle(run: Run) -> None:
    """Return, on every rank, once the newest checkpoint is written.

    A rank that ended earlier would be taken for a failed one, and the writing one killed with it.
    """
    run.channel.beat("save")
    run.store.wait()
    run.group.sum(torch.zeros(1, device=run.trainee.device))


def report(run: Run, state: checkpoint.State, total: int, rate: float, tokens_per_second: float) -> None:
    """Tell the launcher where the run stands."""
    run.channel.send(
        {
            "progress": {
                "step": state.step,
                "totalSteps": total,
                "loss": state.train_loss,
                "validationLoss": state.losses[-1] if state.losses else None,
                "taskLosses": state.task_losses,
                "learningRate": rate,
                "tokensPerSecond": round(tokens_per_second, 1),
                "latestCheckpoint": run.store.latest,
                "bestCheckpoint": state.best_step or None,
            },
            "skipped": state.skipped,
        }
    )


def layout(trainee: Trainee) -> str:
    """Return the order of tensors in the flat buffer, which a checkpoint is only valid for."""
    return f"{len(trainee.names)} tensors, {trainee.flat.numel()} weights, in order of name"


def _share(run: Run, split: Split, rows: npt.NDArray[np.int64]) -> list[Batch]:
    mine = packing.shares(split.lengths[rows].tolist(), run.group.world)[run.group.rank]
    return batches(split, rows[mine], run.spec.data.max_length, run.spec.data.packing == "bestFit")


def _parameter(trainee: Trainee) -> torch.nn.Parameter:
    parameter = torch.nn.Parameter(trainee.flat, requires_grad=True)
    parameter.grad = trainee.gradient
    return parameter


def _seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])
