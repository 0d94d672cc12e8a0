"""Why a training group ended, by class: the one place where exit codes, words and conditions become a cause.

What follows from a cause (whether it is tried again, at what cost, how soon, and whether the node is to blame)
is a row of POLICIES.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from anneal_api.outcome import EXIT_CONFIG, EXIT_TRY_AGAIN, Outcome
from anneal_operator import nodes, outcomes, times
from anneal_operator.nodes import NodeView
from anneal_operator.observed import JobView, PodView


class Cause(StrEnum):
    """Classes of ends."""

    USER_ERROR = "UserError"
    OUT_OF_MEMORY = "OutOfMemory"
    CRASH = "Crash"
    PEER_LOST = "PeerLost"
    """A worker is gone, its peers say, and nobody says why."""
    HANG = "Hang"
    EVICTION = "Eviction"
    PREEMPTION = "Preemption"
    NODE_LOST = "NodeLost"
    ACCELERATOR = "Accelerator"
    STORAGE = "Storage"
    START_TIMEOUT = "StartTimeout"
    KUEUE_EVICTION = "KueueEviction"
    SUSPENDED = "Suspended"
    RESIZED = "Resized"
    UNKNOWN = "Unknown"


@dataclass(frozen=True)
class Policy:
    """What follows from a cause."""

    counts: bool
    """Whether a restart of faultPolicy.maxRestarts is used."""
    in_a_row: int | None
    """Ends of this cause, one after the other, after which the job fails whatever maxRestarts says."""
    delay: float
    """Seconds until the next attempt; doubled by every further one that ends early."""
    longest: float
    blames_node: bool = False
    saves: bool = False
    """The group was asked to stop, and is waited for while it saves."""


POLICIES: dict[str, Policy] = {
    Cause.USER_ERROR: Policy(True, 1, 0, 0),
    # The same batch will not fit again; once is tried, as a neighbour may have taken the memory.
    Cause.OUT_OF_MEMORY: Policy(True, 2, 15, 300),
    Cause.CRASH: Policy(True, None, 5, 300),
    Cause.PEER_LOST: Policy(True, None, 5, 300, blames_node=True),
    Cause.HANG: Policy(True, None, 5, 300, blames_node=True),
    Cause.EVICTION: Policy(False, None, 5, 300, saves=True),
    Cause.PREEMPTION: Policy(False, None, 15, 300, saves=True),
    Cause.NODE_LOST: Policy(False, 10, 1, 300, blames_node=True),
    Cause.ACCELERATOR: Policy(False, 5, 1, 300, blames_node=True),
    Cause.STORAGE: Policy(False, 20, 15, 300),
    Cause.START_TIMEOUT: Policy(False, None, 5, 300),
    Cause.KUEUE_EVICTION: Policy(False, None, 0, 0, saves=True),
    Cause.SUSPENDED: Policy(False, None, 0, 0, saves=True),
    Cause.RESIZED: Policy(False, None, 0, 0, saves=True),
    Cause.UNKNOWN: Policy(True, None, 5, 300),
}


def policy(cause: str) -> Policy:
    """Return what follows from the cause of an attempt in a status, which another version may have written."""
    return POLICIES.get(cause, POLICIES[Cause.UNKNOWN])


@dataclass(frozen=True)
class End:
    """Why a group ended; the reason and message are its own words, the cause is ours."""

    cause: Cause
    reason: str
    message: str
    node: str = ""


DISRUPTIONS = {
    "PreemptionByScheduler": Cause.PREEMPTION,
    "EvictionByEvictionAPI": Cause.EVICTION,
    "DeletionByTaintManager": Cause.NODE_LOST,
    "DeletionByPodGC": Cause.NODE_LOST,
    # Pressure on the node, or its orderly shutdown.
    "TerminationByKubelet": Cause.EVICTION,
}
"""Reasons of a pod's condition DisruptionTarget (Kubernetes: Pod disruption conditions)."""
REASONS = {
    "OutOfMemory": Cause.OUT_OF_MEMORY,
    "OOMKilled": Cause.OUT_OF_MEMORY,
    "OutOfMemoryError": Cause.OUT_OF_MEMORY,
    "Hang": Cause.HANG,
    "PeerHung": Cause.PEER_LOST,
    "PeerLost": Cause.PEER_LOST,
    "GroupNotWhole": Cause.PEER_LOST,
    "Preempted": Cause.EVICTION,
    "PodDeleted": Cause.EVICTION,
    "Evicted": Cause.EVICTION,
    "NodeShutdown": Cause.EVICTION,
    "Terminated": Cause.EVICTION,
    "NodeLost": Cause.NODE_LOST,
    "CheckpointUnreadable": Cause.STORAGE,
    "CheckpointLost": Cause.STORAGE,
    "StartTimeout": Cause.START_TIMEOUT,
}
"""Words of launchers and kubelets for an end."""
HARDWARE_XIDS = "48|61|62|63|64|74|79|92|94|95|119|120|122|123|124|140|143"
"""NVIDIA's XID errors that are the card's or its link's; 13, 31, 43 and 45 are as often the program's own."""
ACCELERATOR = re.compile(
    rf"\bXid\b[^\n]*?:\s*({HARDWARE_XIDS})\b|uncorrectable ECC|fallen off the bus|NVLink (?:fatal|error)"
    r"|CUDA_ERROR_(?:ECC_UNCORRECTABLE|NVLINK_UNCORRECTABLE|HARDWARE_STACK_ERROR|SYSTEM_NOT_READY)"
    r"|DCGM_FR_\w+|ncclSystemError|ncclUnhandledCudaError|NCCL[^\n]*unhandled (?:system|cuda) error",
    re.I,
)
"""Words of drivers, DCGM's diagnosis and NCCL for broken hardware; ncclRemoteError is a victim's."""
STORAGE = re.compile(
    r"No space left|Disk quota exceeded|Stale file handle|Input/output error|EndpointConnectionError"
    r"|ConnectTimeoutError|ReadTimeoutError|SlowDown|ServiceUnavailable|Connection to .*store",
    re.I,
)
SIGTERM = 143
WORD_SECONDS = 5.0
"""How long the victims' verdict waits for the pod that failed first: kubelets report within a second or two."""
VICTIMS = (Cause.PEER_LOST, Cause.EVICTION)
"""What a pod says whose peer failed first, or whom the Job controller has ended because of that."""


def classify(job: JobView, known: Mapping[str, NodeView], now: datetime) -> End:
    """Return why a group ended or has to end; `known` are those of its nodes that could be read."""
    gone = {name for name, node in known.items() if nodes.lost(node, now)}
    pod = outcomes.culprit(job, gone)
    if pod is not None and pod.exit_code == EXIT_CONFIG:
        return _of_pod(pod, known)
    if job.suspended:
        return End(
            Cause.KUEUE_EVICTION,
            "KueueEviction",
            f"Job {job.name} was suspended again, which is how Kueue takes its place away",
        )
    if pod is None:
        text = job.message or "none of its pods is left to say why"
        return End(Cause.UNKNOWN, job.reason or "JobFailed", f"Job {job.name} failed: {text}")
    if pod.node in gone and not pod.over:
        text = f"node {pod.node} of pod {pod.name} has been NotReady since {known[pod.node].since}"
        return End(Cause.NODE_LOST, "NodeLost", text, pod.node)
    end = _of_pod(pod, known)
    return _suspected(job, end) if end.cause is Cause.PEER_LOST else end


def word_left(job: JobView, end: End, now: datetime) -> float:
    """Return the seconds to wait before `end` is believed: while victims alone have spoken, the cause may yet."""
    spoken = [pod.finished for pod in job.pods if pod.over and pod.finished]
    if end.cause not in VICTIMS or not spoken or len(spoken) == len(job.pods):
        return 0.0
    return max(0.0, WORD_SECONDS - times.seconds_since(min(spoken), now))


def _suspected(job: JobView, end: End) -> End:
    """Name the one pod that has said nothing when all others have lost a peer; its node may be gone."""
    silent = [pod for pod in job.pods if not pod.over and pod.node]
    if len(silent) != 1:
        return replace(end, node="")
    text = f"{end.message}; pod {silent[0].name} on node {silent[0].node} has said nothing since"
    return replace(end, message=text, node=silent[0].node)


def _of_pod(pod: PodView, known: Mapping[str, NodeView]) -> End:
    outcome, node = outcomes.of_pod(pod), known.get(pod.node)
    fault = f"; node {pod.node} reports {node.fault}" if node and node.fault else ""
    return End(_cause(pod, outcome, node), outcome.reason, f"{outcome.message}{fault}", pod.node)


def _cause(pod: PodView, outcome: Outcome, node: NodeView | None) -> Cause:
    if outcome.verdict == "Refused":
        return Cause.USER_ERROR
    if pod.disruption in DISRUPTIONS:
        tainted = pod.disruption == "DeletionByTaintManager" and node is not None and node.ready
        return Cause.EVICTION if tainted else DISRUPTIONS[pod.disruption]
    named = REASONS.get(outcome.reason)
    if (node and node.fault) or (named is None and ACCELERATOR.search(outcome.message)):
        return Cause.ACCELERATOR
    return named or _by_code(pod, outcome)


def _by_code(pod: PodView, outcome: Outcome) -> Cause:
    if pod.exit_code == EXIT_TRY_AGAIN or STORAGE.search(f"{outcome.reason} {outcome.message}"):
        return Cause.STORAGE
    if pod.exit_code == SIGTERM:
        return Cause.EVICTION
    return Cause.UNKNOWN if pod.exit_code is None else Cause.CRASH
