"""The ranks of a training group, as the loop sees them: a sum over all, and the news that a peer is gone."""

import os
import re
import socket
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from anneal_runtime.errors import TryAgain
from anneal_trainers.pod import flight

COLLECTIVE_TIMEOUT = timedelta(hours=24)
"""Hangs are judged by the launcher's heartbeats, not by this."""

_PEER_LOST = re.compile(r"gloo|NCCL|(?:connection|socket) (?:closed|reset|timeout)|broken pipe", re.I)


@dataclass(frozen=True)
class Group:
    """This rank among `world`; alone, sums are what they are."""

    rank: int = 0
    world: int = 1

    def sum(self, tensor: torch.Tensor) -> None:
        """Add up `tensor` over all ranks, in place.

        Raises:
            TryAgain: a peer is gone; its own pod knows why.
        """
        if self.world == 1:
            return
        try:
            dist.all_reduce(tensor)
            if tensor.device.type == "cuda":
                torch.cuda.synchronize(tensor.device)
        except RuntimeError as error:
            raise TryAgain("PeerLost", f"rank {self.rank} lost a peer: {str(error)[:300]}") from error

    def leave(self) -> None:
        """Wait for all ranks and take the group apart."""
        if self.world > 1:
            self.sum(torch.zeros(1, device=_device()))
            dist.destroy_process_group()


def leave_process(code: int) -> NoReturn:
    """End this rank, which has said and stored all there is, without taking the interpreter apart.

    A thread of torch's that asks for the interpreter's lock while it is taken apart aborts the process, now and then; a rank that
    has done its work would count as crashed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def is_peer_loss(error: BaseException) -> bool:
    """Say whether a collective failed: with a divided base, layers exchange weights wherever they compute."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and _PEER_LOST.search(str(error)) is not None
    )


def _device() -> torch.device:
    return (
        torch.device("cuda", torch.cuda.current_device())
        if dist.get_backend() == "nccl"
        else torch.device("cpu")
    )


def join_group(rank: int, world: int, rendezvous: str, timeout: float) -> Group:
    """Meet the other ranks at host:port; rank 0 listens there.

    Raises:
        TryAgain: the group is not whole within `timeout` seconds.
    """
    if world == 1:
        return Group()
    host, _, port = rendezvous.rpartition(":")
    try:
        _wait_for_name(host, timeout)
        limit = timedelta(seconds=timeout)
        store = TCPStore(host, int(port), world, is_master=rank == 0, timeout=limit)
        store.set_timeout(COLLECTIVE_TIMEOUT)
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        _choose_interface(host)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=COLLECTIVE_TIMEOUT)
        if backend == "gloo":
            flight.answer(rank)
    except (RuntimeError, OSError) as error:
        raise TryAgain(
            "GroupNotWhole",
            f"rank {rank} of {world} waited {timeout:.0f} s for its peers at {rendezvous}: {str(error)[:200]}",
        ) from error
    return Group(rank, world)


def _choose_interface(host: str) -> None:
    # gloo binds to the address of the machine's own name, which need not resolve: on one machine use loopback.
    if host in ("127.0.0.1", "localhost"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


def _wait_for_name(host: str, timeout: float) -> None:
    """Return once `host` resolves: a headless Service's names appear with its pods."""
    end = time.monotonic() + timeout
    while True:
        try:
            socket.getaddrinfo(host, None)
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
