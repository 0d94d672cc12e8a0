"""Training pods as real processes: one launcher a node, with the environment the operator gives it."""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from anneal_api.outcome import Outcome
from anneal_api.runs import FineTuneRun

PATIENCE_SECONDS = 1200
"""A busy machine must fail no test; what hangs is ended by its launcher."""
HOOK = """
import os, signal, sys, threading, time
place, left = os.environ["ACT_IN"], [int(os.environ["ACT_CALL"])]
act = {
    "stop": lambda: os.kill(os.getppid(), signal.SIGTERM),  # the launcher's
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "freeze": lambda: time.sleep(3600),
}[os.environ["ACT"]]
def watch(frame, event, argument):
    if event == "call" and frame.f_code.co_qualname == place:
        left[0] -= 1
        if left[0] == 0:
            act()
class Late:
    # From the loop on: watching the libraries load would take many times as long.
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "anneal_trainers.training.loop":
            sys.setprofile(watch)
            threading.setprofile(watch)
if os.environ.get("RANK") == os.environ["ACT_RANK"]:
    sys.meta_path.insert(0, Late)
"""


def free_port() -> int:
    """Return a port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Pod:
    """A launcher, the file it leaves its outcome in, and its standard output."""

    process: subprocess.Popen[bytes]
    message: Path
    log: Path

    def finish(self) -> tuple[int, Outcome]:
        """Wait for the end; return the exit code and the outcome."""
        return self.process.wait(PATIENCE_SECONDS), Outcome.model_validate_json(self.message.read_bytes())

    def ranks(self) -> list[psutil.Process]:
        """Return the launcher's children of this moment: its threads, which start them, come and go."""
        return psutil.Process(self.process.pid).children()

    @property
    def has_stepped(self) -> bool:
        """Whether the first rank has told of a step."""
        return '"step"' in self.log.read_text()


def start_pods(run: FineTuneRun, folder: Path, attempt: int = 1, **extra: str) -> list[Pod]:
    """Start the pods of an attempt; `extra` is added to their environment."""
    port = free_port()
    return [start_pod(run, folder, attempt, node, port, extra) for node in range(run.spec.workers.nodes)]


def start_pod(
    run: FineTuneRun, folder: Path, attempt: int, node: int, port: int, extra: dict[str, str]
) -> Pod:
    """Start one of them."""
    message, log = folder / f"termination-{attempt}-{node}", folder / f"log-{attempt}-{node}"
    environment = environment_of(run, folder) | {
        "ANNEAL_TERMINATION_LOG": str(message),
        "ANNEAL_ATTEMPT": str(attempt),
        "ANNEAL_NODES": str(run.spec.workers.nodes),
        "JOB_COMPLETION_INDEX": str(node),
        "ANNEAL_RENDEZVOUS": f"127.0.0.1:{port}",
        "ANNEAL_PROGRESS_PORT": "0",
    }
    command = [sys.executable, "-m", "anneal_trainers", "train"]
    with log.open("w") as stream:
        process = subprocess.Popen(command, env=environment | extra, stdout=stream)
    return Pod(process, message, log)


def environment_of(run: FineTuneRun, folder: Path) -> dict[str, str]:
    """Return the environment of any stage of a run, whose config is written to `folder`."""
    config = folder / "run.json"
    config.write_text(run.model_dump_json(by_alias=True, exclude_none=True))
    return os.environ | {"ANNEAL_RUN": str(config), "OMP_NUM_THREADS": "1"}


def acting(folder: Path, act: str, place: str, call: int, rank: int) -> dict[str, str]:
    """Return what makes a pod's `rank` stop its pod, kill itself or freeze at the given call of a function.

    Args:
        folder: where the hook is written to that its Python loads as it starts.
        act: stop, kill or freeze.
        place: the function's qualified name.
        call: which of the calls, from 1.
        rank: the rank in the whole group.
    """
    hook = folder / "hook"
    hook.mkdir(exist_ok=True)
    (hook / "sitecustomize.py").write_text(HOOK)
    path = os.pathsep.join([str(hook), os.environ.get("PYTHONPATH", "")])
    return {"ACT": act, "ACT_IN": place, "ACT_CALL": str(call), "ACT_RANK": str(rank), "PYTHONPATH": path}
