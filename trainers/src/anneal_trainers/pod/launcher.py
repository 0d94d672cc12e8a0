"""Process 1 of a training pod: starts the ranks, judges them, speaks for them.

A rank is judged by its exit code and by its heartbeats, never by a collective's timeout. When one fails, the
others of the pod are killed at once, as they can only wait for it. SIGTERM goes to the ranks, which agree
to stop after a step, save, and end with 75. /progress and /metrics are served from here, so they
answer while ranks compute. An attempt that does not succeed leaves its records in the store, once its ranks have ended
and its outcome is told. No torch here: it would cost every pod's process 1 seconds and hundreds of megabytes.
"""

import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anneal_api.finetunejob import FineTuneJobSpec
from anneal_api.outcome import EXIT_CODES, Outcome
from anneal_api.runs import (
    ENV_ATTEMPT,
    ENV_GRACE,
    ENV_NODE_RANK,
    ENV_NODES,
    ENV_RENDEZVOUS,
    PROGRESS_PORT,
    RENDEZVOUS_PORT,
    FineTuneRun,
    Progress,
    attempt_folder,
    runs_folder,
)
from anneal_runtime.errors import Refused
from anneal_runtime.stage import read_run, report, termination_log
from anneal_trainers.pod import attempt_records, cgroup, flight, metrics, out_of_memory, processes, verdicts
from anneal_trainers.pod.progress import serve
from anneal_trainers.pod.ranks import Limits, Rank

POLL_SECONDS = 0.1
LAST_SECONDS, LEAVE_SECONDS = 0.5, 10.0
"""Time the others get to end, from the first rank that does: one may have the ledger's last lines to write. More where
they were told to end: it has curves to close."""
WRITE_SECONDS = 20.0
"""Time a checkpoint in flight gets to be written whole: without it, all steps since the one before are lost."""
DUMP_SECONDS, FLIGHT_SECONDS = 1.0, 5.0
"""Time ranks get to write their stacks before a hung group is killed, and at most their flight records."""
CRASH_STORE_SECONDS, STORE_SECONDS = 1.0, 3.0
"""Time the store gets for the records: after a crash the pod is gone within 2 s, and its peers' word is waited for
5 s by the operator. More after a hang, which was no matter of seconds: flight records may be megabytes."""
SAVING_SHARE = 0.9
"""Of the grace period, for ranks to save and end; the rest is for those that do not, and for the records."""
ENV_PORT = "ANNEAL_PROGRESS_PORT"


def main() -> int:
    """Run the pod's share of the training group; return the exit code."""
    try:
        launcher = of_run(read_run(FineTuneRun))
    except Refused as error:
        return _told(Outcome(verdict="Refused", reason=error.reason, message=error.message))
    code = _told(launcher.run())
    if code:
        launcher.leave_records()
    return code


def of_run(run: FineTuneRun) -> "Launcher":
    """Return the launcher of this pod."""
    workers = run.spec.workers
    commands = [[sys.executable, "-m", "anneal_trainers", "rank"]] * workers.accelerators_per_node
    limits = Limits(
        workers.start_timeout_seconds,
        run.spec.fault_policy.hang_timeout_seconds,
        SAVING_SHARE * float(os.environ.get(ENV_GRACE, "inf")),
    )
    folder = attempt_folder(runs_folder(run), int(os.environ.get(ENV_ATTEMPT, "1")))
    return Launcher(commands, environments(run), limits, run.spec, folder, termination_log())


def _told(outcome: Outcome) -> int:
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
        folder: str | None = None,
        last_words: Path | None = None,
    ) -> None:
        self._commands = commands
        self._environments = environments
        self._limits = limits
        self._spec = spec
        self._folder = folder
        self._last_words = last_words
        self._terminated: float | None = None
        self._kills = out_of_memory.kills()
        self._memory = cgroup.memory()
        self._dumps = attempt_records.Dumps()
        self.ranks: list[Rank] = []

    def run(self) -> Outcome:
        """Return what became of the group's ranks on this pod; all of them have ended then."""
        signal.signal(signal.SIGTERM, lambda *_: self._terminate())
        server = serve(self.progress, self.metrics, int(os.environ.get(ENV_PORT, PROGRESS_PORT)))
        if self._folder is not None:
            attempt_records.warm(self._folder)
        try:
            for command, extra in zip(self._commands, self._environments, strict=True):
                self._start(command, extra)
            return verdicts.completed(self._watch(), self.ranks)
        finally:
            self._kill()  # what is still heard must not overwrite the outcome
            if server is not None:
                server.shutdown()
                server.server_close()

    def leave_records(self) -> None:
        """Store what a person needs to know of an attempt that did not succeed; its ranks have ended."""
        if self._folder is None:
            return
        memory = f"at the start\n{self._memory}at the end\n{cgroup.memory()}"
        offset = time.time() - time.monotonic()
        content = attempt_records.files(os.uname().nodename, self.ranks, self._dumps, memory, offset)
        seconds = STORE_SECONDS if self._dumps.stacks else CRASH_STORE_SECONDS
        attempt_records.store(self._folder, content, seconds)

    def _start(self, command: list[str], extra: dict[str, str]) -> None:
        rank = processes.start(len(self.ranks), command, extra, self._hear)
        # Listed first, asked then: a SIGTERM that comes meanwhile finds the rank one way or the other.
        self.ranks.append(rank)
        if self._terminated is not None:
            processes.send(rank, signal.SIGTERM)

    def _hear(self, rank: Rank, message: dict[str, Any]) -> None:
        if self._last_words is not None and rank.number == 0 and message.get("batch"):
            self._last_words.write_text(out_of_memory.last_words(self._spec, rank.phase, rank.batch))

    def _watch(self) -> Outcome:
        while True:
            now = time.monotonic()
            if verdicts.failed(self.ranks):
                return self._end_failed()
            if all(rank.code == 0 for rank in self.ranks):
                processes.finish_reading(self.ranks, DUMP_SECONDS)
                return self.ranks[0].outcome or Outcome(verdict="Succeeded", reason="Done")
            if (hung := verdicts.hung(self.ranks, self._limits, now)) is not None:
                self._dump()
                return verdicts.of_hung(hung, time.monotonic())
            if self._terminated is not None and (stranded := verdicts.stranded(self.ranks, now)) is not None:
                return verdicts.of_stranded(stranded)
            if now >= self._stops_at() and (late := self._alive()):
                self._dump()
                return verdicts.of_overdue(late[0], self._limits.stop)
            time.sleep(POLL_SECONDS)

    def _stops_at(self) -> float:
        return math.inf if self._terminated is None else self._terminated + self._limits.stop

    def _end_failed(self) -> Outcome:
        self._let_end()
        rank = verdicts.to_blame(self.ranks)
        self._kill()
        code, terminated = rank.process.returncode, self._terminated is not None
        oom = out_of_memory.kills() > self._kills
        return verdicts.of_failed(rank, code, self._spec, terminated=terminated, oom=oom)

    def _let_end(self) -> None:
        """Wait a moment: a cause may be about to end, too, and last messages still be in the pipes.

        A checkpoint in flight is waited for, and then as long again for the rank whose it is to end.
        """
        began = time.monotonic()
        patience = LAST_SECONDS if self._terminated is None else LEAVE_SECONDS
        end = began + patience
        while time.monotonic() < min(end, self._stops_at()) and self._alive():
            if any(rank.writing for rank in self._alive()):
                end = max(end, min(time.monotonic() + patience, began + WRITE_SECONDS))
            time.sleep(POLL_SECONDS)
        ended = [rank for rank in self.ranks if rank.code is not None]
        processes.finish_reading(ended, POLL_SECONDS)

    def _alive(self) -> list[Rank]:
        return [rank for rank in self.ranks if rank.code is None]

    def _dump(self) -> None:
        """Ask ranks for their stacks and flight records while they live; end them."""
        marks = {rank.overall: rank.output.mark() for rank in self.ranks}
        asked = time.monotonic()
        for rank in self.ranks:
            processes.send(rank, signal.SIGUSR1)
        self._dumps.flights = flight.collect(marks, FLIGHT_SECONDS)
        time.sleep(max(0.0, asked + DUMP_SECONDS - time.monotonic()))
        self._kill()
        self._dumps.stacks = {rank.overall: rank.output.since(marks[rank.overall]) for rank in self.ranks}

    def _terminate(self) -> None:
        self._terminated = self._terminated or time.monotonic()
        for rank in self.ranks:
            processes.send(rank, signal.SIGTERM)

    def _kill(self) -> None:
        for rank in self.ranks:
            processes.send(rank, signal.SIGKILL)
        for rank in self.ranks:
            rank.process.wait()
        processes.finish_reading(self.ranks, DUMP_SECONDS)

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
