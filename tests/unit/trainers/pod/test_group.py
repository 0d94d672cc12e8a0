"""A rank whose peer dies says so, wherever it notices: the peer's own pod knows why it died."""

import json
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from training_pods import free_port

from anneal_runtime.errors import TryAgain
from anneal_trainers.pod.group import is_peer_loss, join_group

RANK = """
import json, os, sys
import torch, torch.distributed as dist
from anneal_runtime.errors import TryAgain
from anneal_trainers.pod.group import is_peer_loss, join_group
rank, port, way = int(sys.argv[1]), sys.argv[2], sys.argv[3]
group = join_group(rank, 2, f"127.0.0.1:{port}", 60)
numbers = torch.ones(1)
group.sum(numbers)
if rank == 1:
    os._exit(1)
try:
    group.sum(numbers) if way == "sum" else dist.all_gather([numbers, numbers], numbers)
except TryAgain as error:
    print(json.dumps([float(numbers), "TryAgain", error.reason]))
except RuntimeError as error:
    print(json.dumps([2.0, "RuntimeError", is_peer_loss(error)]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "expected"), [("sum", [2.0, "TryAgain", "PeerLost"]), ("gather", [2.0, "RuntimeError", True])]
)
def test_a_peer_that_dies_is_noticed_in_any_collective(way: str, expected: list[object]) -> None:
    port = str(free_port())
    command = [sys.executable, "-c", RANK]
    with subprocess.Popen([*command, "1", port, way]) as dying:
        done = subprocess.run([*command, "0", port, way], capture_output=True, text=True, timeout=120)
        assert dying.wait(60) == 1
    assert json.loads(done.stdout) == expected, done.stderr


def test_a_rank_that_is_done_says_its_last_and_is_not_taken_apart() -> None:
    text = (
        "import atexit; from anneal_trainers.pod.group import leave_process; atexit.register(print, 'apart')"
    )
    text += "; print('done'); leave_process(3)"
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "done\n", "")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_group_that_is_not_whole_in_time_tries_again(rank: int) -> None:
    with pytest.raises(TryAgain, match=f"rank {rank} of 2 waited 1 s for its peers at 127.0.0.1:") as caught:
        join_group(rank, 2, f"127.0.0.1:{free_port()}", 1)
    assert caught.value.reason == "GroupNotWhole"


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:2921"), True),
        (dist.DistBackendError("unhandled system error"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (RuntimeError("size mismatch"), False),
        (ValueError("Connection closed by peer"), False),
    ],
)
def test_only_a_collectives_failure_is_a_lost_peer(error: Exception, lost: bool) -> None:
    assert is_peer_loss(error) is lost
