"""Which class an end belongs to, by exit code, words, conditions of pods and of nodes."""

import pytest
from views import NOW, at, disrupted, exited, job, node, pod, said

from anneal_operator.finetunejob.causes import POLICIES, Cause, classify, policy, word_left
from anneal_operator.observed import PodView

XID = "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus"
PROGRAMS_XID = "NVRM: Xid (PCI:0000:3b:00): 13, Graphics Engine Exception"


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        (said(0, "Refused", "BadTemplate"), Cause.USER_ERROR),
        (exited(0, 64, "not json"), Cause.USER_ERROR),
        (said(0, "Failed", "OutOfMemory"), Cause.OUT_OF_MEMORY),
        (exited(0, 137, reason="OOMKilled"), Cause.OUT_OF_MEMORY),
        (exited(0, 137), Cause.CRASH),
        (exited(0, 139), Cause.CRASH),
        (exited(0, 143), Cause.EVICTION),
        (said(0, "Failed", "RankKilled"), Cause.CRASH),
        (said(0, "Failed", "ValueError"), Cause.CRASH),
        (said(0, "Failed", "Hang"), Cause.HANG),
        (said(0, "Retry", "PeerLost"), Cause.PEER_LOST),
        (said(0, "Retry", "PeerHung"), Cause.PEER_LOST),
        (said(0, "Retry", "Preempted"), Cause.EVICTION),
        (said(0, "Retry", "StoreAway"), Cause.STORAGE),
        (said(0, "Failed", "OSError", "[Errno 28] No space left on device"), Cause.STORAGE),
        (said(0, "Failed", "EndpointConnectionError", "no route"), Cause.STORAGE),
        (said(0, "Failed", "RankFailed", XID), Cause.ACCELERATOR),
        (said(0, "Failed", "RankFailed", PROGRAMS_XID), Cause.CRASH),
        (said(0, "Failed", "RuntimeError", "CUDA error: uncorrectable ECC error"), Cause.ACCELERATOR),
        (said(0, "Failed", "DistBackendError", "NCCL error: unhandled system error"), Cause.ACCELERATOR),
        (said(0, "Failed", "DistBackendError", "ncclRemoteError: a process exited"), Cause.CRASH),
        (disrupted(0, "PreemptionByScheduler"), Cause.PREEMPTION),
        (disrupted(0, "EvictionByEvictionAPI"), Cause.EVICTION),
        (disrupted(0, "TerminationByKubelet"), Cause.EVICTION),
        (disrupted(0, "DeletionByTaintManager"), Cause.NODE_LOST),
        (disrupted(0, "DeletionByPodGC"), Cause.NODE_LOST),
    ],
)
def test_a_pods_end_has_a_cause(end: PodView, cause: Cause) -> None:
    got = classify(job(end), {}, NOW)
    assert (got.cause, got.node) == (cause, "node-0" if cause is not Cause.PEER_LOST else "")


def test_every_cause_has_a_policy_and_an_unknown_one_counts() -> None:
    assert set(POLICIES) == set(Cause)
    assert policy("FromAnotherVersion").counts


def test_a_pod_that_somebody_deletes_is_evicted() -> None:
    got = classify(job(pod(0), pod(1, deleting=True), failed=False), {}, NOW)
    assert (got.cause, got.reason, got.node) == (Cause.EVICTION, "PodDeleted", "node-1")


def test_pods_that_the_job_controller_ends_are_no_cause() -> None:
    got = classify(job(said(0, "Failed", "Hang"), pod(1, deleting=True)), {}, NOW)
    assert (got.cause, got.node) == (Cause.HANG, "node-0")


def test_a_lost_node_is_known_by_its_condition_and_not_at_once() -> None:
    gone = {"node-1": node("node-1", ready=False, since=0)}
    group = job(said(0, "Retry", "PeerLost"), pod(1))
    assert classify(group, gone, at(5)).cause is Cause.PEER_LOST
    late = classify(group, gone, at(11))
    assert (late.cause, late.node) == (Cause.NODE_LOST, "node-1")


def test_the_peers_of_a_lost_node_name_the_one_that_is_silent() -> None:
    one = classify(job(said(0, "Retry", "PeerLost"), pod(1)), {}, NOW)
    assert (one.cause, one.node) == (Cause.PEER_LOST, "node-1")
    assert "p-1 on node node-1 has said nothing" in one.message
    two = classify(job(said(0, "Retry", "PeerLost"), pod(1), pod(2)), {}, NOW)
    assert two.node == ""


def test_a_taint_on_a_node_that_is_there_is_an_eviction() -> None:
    pods = job(disrupted(0, "DeletionByTaintManager"), failed=False)
    assert classify(pods, {"node-0": node("node-0")}, NOW).cause is Cause.EVICTION


@pytest.mark.parametrize(
    ("condition", "state", "cause"),
    [
        ("AcceleratedHardwareReady", "False", Cause.ACCELERATOR),
        ("AcceleratedHardwareReady", "True", Cause.CRASH),
        ("GpuXidCritical", "True", Cause.ACCELERATOR),
        ("GpuXidCritical", "False", Cause.CRASH),
        ("KernelDeadlock", "True", Cause.CRASH),
    ],
)
def test_a_node_may_report_its_accelerators(condition: str, state: str, cause: Cause) -> None:
    known = {"node-0": node("node-0", **{condition: state})}
    got = classify(job(said(0, "Failed", "RankFailed")), known, NOW)
    assert got.cause is cause
    assert ("it says why" in got.message) is (cause is Cause.ACCELERATOR)


def test_kueue_takes_a_place_away_but_never_hides_an_error_of_the_user() -> None:
    assert classify(job(said(0, "Retry", "Preempted"), suspend=True), {}, NOW).cause is Cause.KUEUE_EVICTION
    assert classify(job(said(0, "Refused", "Bad"), suspend=True), {}, NOW).cause is Cause.USER_ERROR


def test_a_group_whose_pods_are_gone_ends_for_a_reason_of_its_job() -> None:
    got = classify(job(), {}, NOW)
    assert (got.cause, got.reason) == (Cause.UNKNOWN, "PodFailurePolicy")


def test_victims_are_believed_only_when_the_first_to_fail_had_time_to_speak() -> None:
    victim, own = said(0, "Retry", "PeerLost", at=1), said(1, "Failed", "RankKilled", at=0)

    def left(*pods: PodView, seconds: float) -> float:
        group = job(*pods)
        return word_left(group, classify(group, {}, at(seconds)), at(seconds))

    assert left(victim, pod(1), seconds=2) == 4
    assert left(victim, pod(1), seconds=6) == 0
    assert left(victim, own, seconds=2) == 0
    assert left(victim, said(1, "Retry", "PeerLost", at=1), seconds=2) == 0
    assert left(own, pod(0), seconds=0) == 0
