"""What the end of ranks means: how far they got, and whose words of hardware count."""

import subprocess

import pytest

from anneal_api.outcome import Outcome
from anneal_trainers.pod import verdicts
from anneal_trainers.pod.ranks import Rank

XID = "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, GPU has fallen off the bus."
REMOTE = "NCCL WARN Net: ncclRemoteError: remote process exited or there was a network error"


def rank(number: int = 0, *printed: str) -> Rank:
    ended = Rank(number, number, subprocess.Popen(["true"]))
    ended.process.wait()
    for line in printed:
        ended.output.add(f"{line}\n".encode())
    return ended


def outcome(reason: str, message: str = "m", verdict: str = "Retry") -> Outcome:
    return Outcome.model_validate({"verdict": verdict, "reason": reason, "message": message})


def test_how_far_an_attempt_got_is_what_its_ranks_know_together() -> None:
    first, second = rank(0), rank(1)
    assert verdicts.completed(outcome("Boom"), [first, second]).result == {"step": 0}
    second.hear({"checkpoint": 4}, 0.0)
    first.hear({"progress": {"step": 7}}, 0.0)
    assert verdicts.completed(outcome("Boom"), [first, second]).result == {"step": 7, "checkpoint": 4}
    first.hear({"writing": False, "checkpoint": 8}, 0.0)
    assert verdicts.completed(outcome("Preempted"), [first, second]).result == {"step": 8, "checkpoint": 8}


def test_a_run_that_succeeded_keeps_its_result() -> None:
    done = outcome("Done", verdict="Succeeded").model_copy(update={"result": {"artifact": 1}})
    assert verdicts.completed(done, [rank(0, XID)]) == done


@pytest.mark.parametrize(
    ("printed", "verdict", "reason"),
    [
        (XID, "Failed", "AcceleratorFailed"),
        ("NCCL error: ncclUnhandledCudaError: Call to CUDA function failed", "Failed", "AcceleratorFailed"),
        (REMOTE, "Retry", "PeerLost"),
        ("ncclSystemError: connection reset by peer", "Retry", "PeerLost"),
        ("a plain line", "Retry", "PeerLost"),
    ],
)
def test_a_rank_with_broken_hardware_is_no_victim(printed: str, verdict: str, reason: str) -> None:
    found = verdicts.completed(outcome("PeerLost", "lost a peer"), [rank(0, "before", printed)])
    assert (found.verdict, found.reason) == (verdict, reason)
    assert found.message.startswith("lost a peer")
    assert (printed in found.message) == (printed != "a plain line")


def test_words_of_hardware_are_passed_on_once_the_newest_few() -> None:
    lines = [f"NCCL WARN number {n}" for n in range(9)]
    found = verdicts.completed(
        outcome("Boom", "said: NCCL WARN number 8", "Failed"), [rank(0, *lines, *lines)]
    )
    assert found.message == "said: NCCL WARN number 8\nNCCL WARN number 6\nNCCL WARN number 7"
    long = verdicts.completed(outcome("Boom", "x" * 2000, "Failed"), [rank(0, XID * 9)])
    assert len(long.message) == 2048
