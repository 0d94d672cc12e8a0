"""Training pods as real processes: one launcher a node, with the environment the operator gives it."""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from anneal_api.outcome import Outcome
from anneal_api.runs import FineTuneRun


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
        return self.process.wait(300), Outcome.model_validate_json(self.message.read_bytes())

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
