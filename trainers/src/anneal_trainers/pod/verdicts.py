"""What the end of a pod's ranks means: which of them is to blame, and what is told of it. No I/O."""

import re
import signal
from collections.abc import Sequence

from anneal_api.base import wire
from anneal_api.finetunejob import FineTuneJobSpec
from anneal_api.outcome import EXIT_CODES, Outcome, TrainReached
from anneal_trainers.pod import out_of_memory
from anneal_trainers.pod.ranks import Limits, Rank

TOLD_BYTES = 600
"""Of what a rank printed last."""
TOLD_LINES = 3
"""Of those that name an accelerator's or NCCL's trouble; the newest."""
MESSAGE_LIMIT = 2048
_TROUBLE = re.compile(
    r"NVRM: Xid|NCCL WARN|NCCL error|nccl[A-Z]\w*Error|CUDA (?:error|failure)|CUDA_ERROR_\w+|uncorrectable ECC"
    r"|fallen off the bus|NVLink (?:fatal|error)",
    re.I,
)
_OWN_TROUBLE = re.compile(
    r"NVRM: Xid|ncclUnhandledCudaError|uncorrectable ECC|fallen off the bus|NVLink (?:fatal|error)", re.I
)
"""What no rank prints that only lost a peer; ncclSystemError and ncclRemoteError are as often the victim's."""


def failed(ranks: Sequence[Rank]) -> list[Rank]:
    """Return the ranks that ended badly."""
    return [rank for rank in ranks if rank.code not in (None, 0)]


def to_blame(ranks: Sequence[Rank]) -> Rank:
    """Return the rank to blame: one that lost its peer is a victim, though it may be the first to end."""
    doomed = [r for r in ranks if r.outcome is not None and r.outcome.verdict in ("Refused", "Failed")]
    return min([*doomed, *failed(ranks)], key=lambda rank: (_asks_again(rank), rank.number))


def hung(ranks: Sequence[Rank], limits: Limits, now: float) -> Rank | None:
    """Return the rank that has been silent for too long, first one that does not wait for others."""
    silent = [rank for rank in ranks if rank.code is None and now - rank.heard > limits.of(rank)]
    return min(silent, key=lambda rank: (rank.phase == "reduce", rank.heard), default=None)


def of_failed(rank: Rank, code: int, spec: FineTuneJobSpec, *, terminated: bool, oom: bool) -> Outcome:
    """Return the outcome of a pod whose `rank` ended with `code`.

    Args:
        rank: the one to blame.
        code: its exit code, or that of the signal that ended it, negative.
        spec: what memory's remedies are taken from.
        terminated: whether the pod was told to stop.
        oom: whether the kernel has killed for memory since the pod began.
    """
    if rank.outcome is not None:
        return rank.outcome
    if terminated and code in (-signal.SIGTERM, EXIT_CODES["Retry"]):
        return Outcome(
            verdict="Retry", reason="Preempted", message="stopped by SIGTERM before the first step"
        )
    if code < 0:
        return _of_killed(rank, signal.Signals(-code).name, spec, oom)
    verdicts = {number: verdict for verdict, number in EXIT_CODES.items()}
    return Outcome(
        verdict=verdicts.get(code, "Failed"),
        reason="RankFailed",
        message=f"rank {rank.number} of this pod ended with exit code {code}: {_last_of(rank)}",
    )


def _of_killed(rank: Rank, name: str, spec: FineTuneJobSpec, oom: bool) -> Outcome:
    who = f"rank {rank.number} of this pod was ended by {name}"
    if name == "SIGKILL" and oom:
        why = out_of_memory.describe(spec, rank.phase, rank.batch)
        return Outcome(verdict="Failed", reason="OutOfMemory", message=f"{who}: {why}")
    message = f"{who} in phase {rank.phase} {rank.batch} {_last_of(rank)}"
    return Outcome(verdict="Failed", reason="RankKilled", message=message)


def of_hung(rank: Rank, now: float) -> Outcome:
    """Return the outcome of a pod whose `rank` hangs."""
    silent = now - rank.heard
    message = f"rank {rank.number} of this pod gave no sign for {silent:.0f} s in phase {rank.phase}"
    if rank.phase == "reduce":
        return Outcome(verdict="Retry", reason="PeerHung", message=f"{message}: it waits for another pod")
    return Outcome(verdict="Failed", reason="Hang", message=message)


def stranded(ranks: Sequence[Rank], now: float) -> Rank | None:
    """Return a rank that cannot save after SIGTERM: its peers' node was lost, and with it their answer."""
    return next((rank for rank in ranks if rank.code is None and rank.strands(now)), None)


def of_stranded(rank: Rank) -> Outcome:
    """Return the outcome of a pod that was told to stop and whose `rank` waits for peers that are gone."""
    text = (
        f"stopped by SIGTERM while rank {rank.number} of this pod waited for another pod, which gave no sign"
    )
    return Outcome(verdict="Retry", reason="PeerLost", message=text)


def of_overdue(rank: Rank, seconds: float) -> Outcome:
    """Return the outcome of a pod whose `rank` has not ended within `seconds` of SIGTERM."""
    return Outcome(
        verdict="Retry",
        reason="Preempted",
        message=f"told to stop by SIGTERM, and rank {rank.number} of this pod had not {seconds:.0f} s later, "
        f"in phase {rank.phase}; what came after the newest checkpoint is done again",
    )


def completed(outcome: Outcome, ranks: Sequence[Rank]) -> Outcome:
    """Return the outcome of an attempt that ended before its time, with how far it got and words of hardware."""
    if outcome.verdict == "Succeeded":
        return outcome
    lines = trouble([rank.output.text() for rank in ranks])
    told = [outcome.message, *(line for line in lines if line not in outcome.message)]
    changes = {"result": wire(reached(ranks)), "message": "\n".join(told)[:MESSAGE_LIMIT]}
    if outcome.reason == "PeerLost" and _OWN_TROUBLE.search("\n".join([outcome.message, *lines])):
        changes |= {"verdict": "Failed", "reason": "AcceleratorFailed"}
    return outcome.model_copy(update=changes)


def reached(ranks: Sequence[Rank]) -> TrainReached:
    """Return how far the attempt got, as far as this pod knows: its first rank alone hears of every checkpoint."""
    saved = max((rank.checkpoint for rank in ranks if rank.checkpoint is not None), default=None)
    # A preemption saves the step it ends with before anybody has told of it.
    return TrainReached(step=max([saved or 0, *(rank.step for rank in ranks)]), checkpoint=saved)


def trouble(logs: Sequence[str]) -> list[str]:
    """Return the newest lines that name an accelerator's, its driver's or NCCL's trouble, each once."""
    found = [line.strip()[:TOLD_BYTES] for log in logs for line in log.splitlines() if _TROUBLE.search(line)]
    return [*dict.fromkeys(found)][-TOLD_LINES:]


def _asks_again(rank: Rank) -> bool:
    if rank.outcome is not None:
        return rank.outcome.verdict == "Retry"
    return rank.code == EXIT_CODES["Retry"]


def _last_of(rank: Rank) -> str:
    return rank.output.text().strip()[-TOLD_BYTES:]
