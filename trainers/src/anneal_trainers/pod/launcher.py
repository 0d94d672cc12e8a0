"""Process 1 of a training pod: starts the ranks, judges them, speaks for them.

A rank is judged by its exit code and by its heartbeats, never by a collective's timeout. When one fails, the
others of the pod are killed at once, as they can only wait for it. SIGTERM goes to the ranks, which agree
to stop after a step, save, and end with 75. /progress and /metrics are served from here, so they
answer while ranks compute. No torch here: it would cost every pod's process 1 seconds and hundreds of megabytes.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from anneal_api.finetunejob import FineTuneJobSpec
from anneal_api.outcome import EXIT_CODES, Outcome
from anneal_api.runs import (
    ENV_ATTEMPT,
    ENV_NODE_RANK,
    ENV_NODES,
    ENV_RENDEZVOUS,
    PROGRESS_PORT,
    RENDEZVOUS_PORT,
    FineTuneRun,
    Progress,
)
from anneal_runtime.errors import Refused
from anneal_runtime.stage import read_run, report, termination_log
from anneal_runtime.storage import join, resolve
from anneal_trainers.pod import metrics, out_of_memory
from anneal_trainers.pod.channel import ENV_CHANNEL
from anneal_trainers.pod.progress import serve
from anneal_trainers.pod.ranks import Limits, Rank
from anneal_trainers.records.runs import attempt_folder, runs_folder

POLL_SECONDS = 0.1
LAST_SECONDS, LEAVE_SECONDS = 0.5, 10.0
"""Time the others get to end, from the first rank that does: one may have the ledger's last lines to write. More where
they were told to end: it has curves to close."""
WRITE_SECONDS = 20.0
"""Time a checkpoint in flight gets to be written whole: without it, all steps since the one before are lost."""
DUMP_SECONDS = 1.0
"""Time ranks get to write their stacks before a hung group is killed."""
ENV_PORT = "ANNEAL_PROGRESS_PORT"


def main() -> int:
    """Run the pod's share of the training group; return the exit code."""
    try:
        run = read_run(FineTuneRun)
        commands = [
            [sys.executable, "-m", "anneal_trainers", "rank"]
        ] * run.spec.workers.accelerators_per_node
        limits = Limits(run.spec.workers.start_timeout_seconds, run.spec.fault_policy.hang_timeout_seconds)
        words = termination_log()
        outcome = Launcher(commands, environments(run), limits, run.spec, _dumps_uri(run), words).run()
    except Refused as error:
        outcome = Outcome(verdict="Refused", reason=error.reason, message=error.message)
    report(outcome)
    return EXIT_CODES[outcome.verdict]


def environments(run: FineTuneRun) -> list[dict[str, str]]:
    """Return what each rank of this pod is told beside the pod's own environment."""
    per_node = run.spec.workers.accelerators_per_node
    node = int(os.environ.get(ENV_NODE_RANK, "0"))
    world = int(os.environ.get(ENV_NODES, str(run.spec.workers.nodes))) * per_node
    meet = os.environ.get(ENV_RENDEZVOUS, f"127.0.0.1:{RENDEZVOUS_PORT}")
    return [rank_environment(node * per_node + local, local, world, meet) for local in range(per_node)]


def rank_environment(rank: int, local: int, world: int, meet: str) -> dict[str, str]:
    """Return what rank `rank` of `world`, the pod's `local`th, is told; all meet at host:port."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(local),
        "WORLD_SIZE": str(world),
        "ANNEAL_MEET": meet,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }


class Launcher:
    """Starts `commands` as ranks and watches them to the end."""

    def __init__(
        self,
        commands: Sequence[list[str]],
        environments: Sequence[dict[str, str]],
        limits: Limits,
        spec: FineTuneJobSpec,
        dumps_uri: str | None = None,
        last_words: Path | None = None,
    ) -> None:
        self._commands = commands
        self._environments = environments
        self._limits = limits
        self._spec = spec
        self._dumps_uri = dumps_uri
        self._last_words = last_words
        self._terminated = False
        self._kills = out_of_memory.kills()
        self._scratch = Path(mkdtemp(prefix="anneal-launcher-"))
        self._listeners: list[threading.Thread] = []
        self.ranks: list[Rank] = []

    def run(self) -> Outcome:
        """Return what became of the group's ranks on this pod."""
        signal.signal(signal.SIGTERM, lambda *_: self._terminate())
        server = serve(self.progress, self.metrics, int(os.environ.get(ENV_PORT, PROGRESS_PORT)))
        try:
            for command, extra in zip(self._commands, self._environments, strict=True):
                self._start(command, extra)
            return self._watch()
        finally:
            self._kill()
            for listener in self._listeners:
                listener.join(DUMP_SECONDS)  # what it still hears must not overwrite the outcome
            if server is not None:
                server.shutdown()
                server.server_close()
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _start(self, command: list[str], extra: dict[str, str]) -> None:
        number = len(self.ranks)
        reading, writing = os.pipe()
        stderr = self._scratch / f"rank-{number}.stderr"
        with stderr.open("wb") as errors:
            process = subprocess.Popen(
                command,
                env={**os.environ, **extra, ENV_CHANNEL: str(writing)},
                pass_fds=[writing],
                stderr=errors,
                start_new_session=True,
            )
        os.close(writing)
        rank = Rank(number, process, stderr)
        stream = os.fdopen(reading)
        listener = threading.Thread(target=self._listen, args=(rank, stream), daemon=True)
        listener.start()
        self._listeners.append(listener)
        # Listed first, asked then: a SIGTERM that comes meanwhile finds the rank one way or the other.
        self.ranks.append(rank)
        if self._terminated:
            _signal(rank, signal.SIGTERM)

    def _listen(self, rank: Rank, stream: Any) -> None:
        with stream:
            for line in stream:
                rank.hear(message := json.loads(line), time.monotonic())
                if self._last_words is not None and rank.number == 0 and message.get("batch"):
                    words = out_of_memory.last_words(self._spec, rank.phase, rank.batch)
                    self._last_words.write_text(words)

    def _watch(self) -> Outcome:
        while True:
            if self._failed():
                self._let_end()
                cause = self._cause()
                self._kill()
                return self._describe(cause)
            if all(rank.process.poll() == 0 for rank in self.ranks):
                time.sleep(POLL_SECONDS)  # the last message may still be in the pipe
                return self.ranks[0].outcome or Outcome(verdict="Succeeded", reason="Done")
            if (hung := self._hung(time.monotonic())) is not None:
                return self._end_hang(hung)
            if self._terminated and (stranded := self._stranded(time.monotonic())) is not None:
                self._kill()
                text = f"stopped by SIGTERM while rank {stranded.number} of this pod waited for another pod"
                return Outcome(verdict="Retry", reason="PeerLost", message=f"{text}, which gave no sign")
            time.sleep(POLL_SECONDS)

    def _let_end(self) -> None:
        """Wait a moment: a cause may be about to end, too, and last messages still be in the pipes.

        A checkpoint in flight is waited for, and then as long again for the rank whose it is to end.
        """
        began = time.monotonic()
        patience = LEAVE_SECONDS if self._terminated else LAST_SECONDS
        end = began + patience
        while time.monotonic() < end and (alive := [r for r in self.ranks if r.process.poll() is None]):
            if any(rank.writing for rank in alive):
                end = max(end, min(time.monotonic() + patience, began + WRITE_SECONDS))
            time.sleep(POLL_SECONDS)
        time.sleep(POLL_SECONDS)

    def _failed(self) -> list[Rank]:
        return [rank for rank in self.ranks if rank.process.poll() not in (None, 0)]

    def _cause(self) -> Rank:
        """Return the rank to blame: one that lost its peer is a victim, though it may be the first to end."""
        doomed = [
            r for r in self.ranks if r.outcome is not None and r.outcome.verdict in ("Refused", "Failed")
        ]
        return min([*doomed, *self._failed()], key=lambda rank: (_asks_again(rank), rank.number))

    def _hung(self, now: float) -> Rank | None:
        silent = [
            rank
            for rank in self.ranks
            if rank.process.poll() is None and now - rank.heard > self._limits.of(rank)
        ]
        return min(silent, key=lambda rank: (rank.phase == "reduce", rank.heard), default=None)

    def _stranded(self, now: float) -> Rank | None:
        """Return a rank that cannot save after SIGTERM: its peers' node was lost, and with it their answer."""
        waits = (rank for rank in self.ranks if rank.process.poll() is None and rank.strands(now))
        return next(waits, None)

    def _describe(self, rank: Rank) -> Outcome:
        _show(rank)
        if rank.outcome is not None:
            return rank.outcome
        code, tail = rank.process.returncode, _tail(rank.stderr)
        if self._terminated and code in (-signal.SIGTERM, EXIT_CODES["Retry"]):
            return Outcome(
                verdict="Retry", reason="Preempted", message="stopped by SIGTERM before the first step"
            )
        if code < 0:
            return self._describe_killed(rank, signal.Signals(-code).name, tail)
        verdicts = {number: verdict for verdict, number in EXIT_CODES.items()}
        return Outcome(
            verdict=verdicts.get(code, "Failed"),
            reason="RankFailed",
            message=f"rank {rank.number} of this pod ended with exit code {code}: {tail}",
        )

    def _describe_killed(self, rank: Rank, name: str, tail: str) -> Outcome:
        who = f"rank {rank.number} of this pod was ended by {name}"
        if name == "SIGKILL" and out_of_memory.kills() > self._kills:
            why = out_of_memory.describe(self._spec, rank.phase, rank.batch)
            return Outcome(verdict="Failed", reason="OutOfMemory", message=f"{who}: {why}")
        return Outcome(
            verdict="Failed", reason="RankKilled", message=f"{who} in phase {rank.phase} {rank.batch} {tail}"
        )

    def _end_hang(self, hung: Rank) -> Outcome:
        for rank in self.ranks:
            _signal(rank, signal.SIGUSR1)
        time.sleep(DUMP_SECONDS)
        self._keep_dumps()
        self._kill()
        silent = time.monotonic() - hung.heard
        message = f"rank {hung.number} of this pod gave no sign for {silent:.0f} s in phase {hung.phase}"
        if hung.phase == "reduce":
            return Outcome(verdict="Retry", reason="PeerHung", message=f"{message}: it waits for another pod")
        return Outcome(verdict="Failed", reason="Hang", message=message)

    def _keep_dumps(self) -> None:
        for rank in self.ranks:
            _show(rank)
            if self._dumps_uri is not None:
                with contextlib.suppress(OSError):
                    filesystem, path = resolve(self._dumps_uri)
                    filesystem.makedirs(path, exist_ok=True)
                    name = f"{os.uname().nodename}-rank-{rank.number}.stacks"
                    filesystem.put_file(str(rank.stderr), f"{path}/{name}")

    def _terminate(self) -> None:
        self._terminated = True
        for rank in self.ranks:
            _signal(rank, signal.SIGTERM)

    def _kill(self) -> None:
        for rank in self.ranks:
            _signal(rank, signal.SIGKILL)
        for rank in self.ranks:
            rank.process.wait()

    def progress(self) -> Progress:
        """Return where the run stands, as the first rank of the pod last said."""
        known = (self.ranks[0].progress if self.ranks else None) or {}
        return Progress.model_validate({"attempt": int(os.environ.get(ENV_ATTEMPT, "1"))} | known)

    def metrics(self) -> bytes:
        """Return the same for Prometheus, with the figures of the last step."""
        progress, now = self.progress(), time.monotonic()
        first = self.ranks[0] if self.ranks else None
        figures = {
            "step": progress.step,
            "total_steps": progress.total_steps,
            "restarts": progress.attempt - 1,
            "silence_seconds": max((now - rank.heard for rank in self.ranks), default=0.0),
        }
        if first is not None and first.steps:
            figures["step_seconds"] = first.steps[-1]
        return metrics.text(figures | (first.figures if first is not None else {}))


def _dumps_uri(run: FineTuneRun) -> str:
    attempt = int(os.environ.get(ENV_ATTEMPT, "1"))
    return join(attempt_folder(runs_folder(run), attempt), "stacks")


def _asks_again(rank: Rank) -> bool:
    if rank.outcome is not None:
        return rank.outcome.verdict == "Retry"
    return rank.process.poll() == EXIT_CODES["Retry"]


def _signal(rank: Rank, number: int) -> None:
    if rank.process.poll() is None:
        rank.process.send_signal(number)


def _show(rank: Rank) -> None:
    sys.stderr.write(rank.stderr.read_text(errors="replace"))
    sys.stderr.flush()


def _tail(path: Path) -> str:
    return path.read_text(errors="replace").strip()[-600:]
