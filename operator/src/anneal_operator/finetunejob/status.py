"""The fields of a FineTuneJob's status that follow from others."""

import math
from datetime import datetime

from anneal_api import outcome
from anneal_api.finetunejob import (
    Attempt,
    CheckpointStatus,
    FineTuneJobSpec,
    FineTuneJobStatus,
    ProgressStatus,
    SuiteScore,
    TaskScore,
)
from anneal_api.outcome import Score, TrainResult
from anneal_api.runs import Progress
from anneal_operator import times
from anneal_operator.conditions import find, is_true
from anneal_operator.draft import Draft

DIGITS = 6
LARGEST_EXPONENT = 700
"""Above it a float has no room for e to it."""


def finish(draft: Draft[FineTuneJobStatus], spec: FineTuneJobSpec) -> None:
    """Set what is derived, when everything else is."""
    draft.update(phase=phase(draft.status, spec))


def phase(status: FineTuneJobStatus, spec: FineTuneJobSpec) -> str:
    """Return one word for people."""
    held = status.conditions
    for word in ("Complete", "Failed", "Suspended"):
        if is_true(held, word):
            return word
    inspected, planned = find(held, "Inspected"), find(held, "PlanReady")
    if any(c and c.status == "False" and c.reason not in WAITING for c in (inspected, planned)):
        return "Refused"
    if not is_true(held, "PlanReady"):
        return "Inspecting"
    if not is_true(held, "DataPrepared"):
        return "Preparing"
    return "Finishing" if status.artifacts.adapter else "Training"


WAITING = ("Inspecting", "SecretMissing", "ClaimMissing", "ClaimUnbound", "Unschedulable", "ImagePullFailed",
           "PodsNotCreated", "PodNotStarting", "ContainerNotStarting", "QuotaExceeded", "QuotaUndeclared",
           "CreationRefused")  # fmt: skip


def number(value: float | None) -> str:
    """Return a figure for people; empty when there is none."""
    return "" if value is None else f"{value:.{DIGITS}g}"


def progress(shown: Progress, attempt: Attempt, now: datetime) -> ProgressStatus:
    """Return what the launcher said, for display."""
    percent = min(100, 100 * shown.step // shown.total_steps) if shown.total_steps else 0
    return ProgressStatus(
        step=shown.step,
        total_steps=shown.total_steps,
        percent=percent,
        loss=number(shown.loss),
        validation_loss=number(shown.validation_loss),
        task_losses={name: number(loss) for name, loss in sorted(shown.task_losses.items())[:64]},
        tokens_per_second=number(shown.tokens_per_second),
        time_left_seconds=_time_left(shown, attempt, now),
    )


def _time_left(shown: Progress, attempt: Attempt, now: datetime) -> int | None:
    """Return the seconds the remaining steps take at the pace of this attempt, validations and all."""
    if not attempt.training or attempt.first_step is None or shown.step <= attempt.first_step:
        return None
    pace = times.seconds_since(attempt.training, now) / (shown.step - attempt.first_step)
    return round(max(0, shown.total_steps - shown.step) * pace)


def arrived(shown: ProgressStatus | None, result: TrainResult) -> ProgressStatus:
    """Return the progress of a run that is over: the last look may have been some steps before its end."""
    last = shown or ProgressStatus()
    end = {
        "step": result.step,
        "percent": 100,
        "total_steps": max(last.total_steps, result.step),
        "time_left_seconds": None,
    }
    losses = {
        "loss": last.loss if result.loss is None else number(result.loss),
        "validation_loss": number(result.validation_loss),
    }
    return last.model_copy(update=end | losses)


def checkpoints(shown: Progress) -> CheckpointStatus:
    """Return the newest and the best checkpoint."""
    return CheckpointStatus(latest=shown.latest_checkpoint, best=shown.best_checkpoint)


def full_size(draft: Draft[FineTuneJobStatus], nodes: int) -> None:
    """Say that a group that had shrunk is whole again."""
    attempt = draft.status.attempts[-1]
    shrunk = find(draft.status.conditions, "FullSize")
    if shrunk and shrunk.status == "False" and attempt.nodes >= nodes:
        text = f"attempt {attempt.number} has all {nodes} nodes"
        draft.condition("FullSize", True, "Grown", text, turn=attempt.number)


def scores(measured: list[Score], spec: FineTuneJobSpec) -> list[TaskScore]:
    """Return the held-out losses, and what perplexity they are, as text."""
    return [
        TaskScore(
            name=s.name,
            base_loss=number(s.base_loss),
            tuned_loss=number(s.tuned_loss),
            base_perplexity=_perplexity(s.base_loss, spec),
            tuned_perplexity=_perplexity(s.tuned_loss, spec),
            rows=s.rows,
        )
        for s in measured[:64]
    ]


def _perplexity(loss: float, spec: FineTuneJobSpec) -> str:
    """Return e to a mean loss of tokens; of preferences, whose loss is one of pairs, nothing."""
    if spec.optimization.objective != "supervised" or loss > LARGEST_EXPONENT:
        return ""
    return number(math.exp(loss))


def suite_scores(measured: list[outcome.SuiteScore]) -> list[SuiteScore]:
    """Return what suites scored as text."""
    return [
        SuiteScore(
            suite=each.suite,
            score=each.score,
            value=number(each.value),
            interval=f"[{number(each.low)}, {number(each.high)}]",
            problems=each.problems,
        )
        for each in measured[:16]
    ]
