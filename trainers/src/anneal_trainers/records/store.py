"""The checkpoints of a run: written beside it without stopping it, kept few, found again by later attempts.

Saving costs the loop nothing but a thread's start: that thread copies the live tensors while the next step runs forward
and backward, which leave them alone, and writes the copy at the lowest priority: where cores are short, the loop's
come first. The loop asks `Store.staged()` before it updates them.
"""

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from anneal_api.runs import attempt_folder
from anneal_runtime.errors import TryAgain
from anneal_runtime.storage import join, resolve
from anneal_trainers.records import checkpoint, ledger
from anneal_trainers.records.checkpoint import STATE, Checkpoint, State, name_of, step_of, steps_in
from anneal_trainers.records.runs import names_in, storage_away
from anneal_trainers.records.staging import Staging

LOWEST_PRIORITY = 19
"""As `nice` counts."""


class Timer:
    """Says when checkpoints of every so many minutes are due; without minutes none ever is.

    Clocks of machines differ: only that of rank 0 is asked, and its answer is part of the step's sum.
    """

    def __init__(self, every_minutes: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = None if every_minutes is None else every_minutes * 60.0
        self._clock = clock
        self._began = clock()

    def due(self) -> bool:
        """Say whether the time is up; it then begins anew."""
        now = self._clock()
        if self._seconds is None or now - self._began < self._seconds:
            return False
        self._began = now
        return True


class Store:
    """The checkpoints of a run: writes to its own attempt's folder, reads any attempt's up to its own.

    `waited` is how many seconds the loop has been kept waiting. With `before` only checkpoints of earlier steps
    are seen. `tell` is called with whether a checkpoint is being written, by the thread that knows.
    """

    def __init__(
        self,
        runs_uri: str,
        attempt: int,
        run: str,
        keep: int,
        before: int | None = None,
        tell: Callable[[bool], None] = lambda writing: None,
    ) -> None:
        self._runs = runs_uri
        self.attempt = attempt
        self._own = attempt_folder(runs_uri, attempt)
        self._run = run
        self._keep = keep
        self._before = before
        self._tell = tell
        self._staging = Staging()
        self._staged = threading.Event()
        self._staged.set()
        self._writer: threading.Thread | None = None
        self._error: BaseException | None = None
        self.resumed = 0
        """Step of the checkpoint that this attempt goes on from; on rank 0 alone."""
        self.latest: int | None = None
        self.waited = 0.0

    def save(self, state: State, live: Mapping[str, torch.Tensor], lines: Sequence[str] = ()) -> None:
        """Write a checkpoint, and the ledger's `lines` before it, in the background.

        `live` must not change before `staged()` has returned. Waits only for an earlier save still being
        written, and raises what that one raised.
        """
        with self._waiting():
            self.wait()
        self._staged.clear()
        self._tell(True)
        arguments = (replace(state, run=self._run), live, self._staging.mark(live), lines)
        self._writer = threading.Thread(target=self._guarded, args=arguments, daemon=True)
        self._writer.start()

    def staged(self) -> None:
        """Return when the tensors of the last save may change.

        Raises what a writing since has raised: each step that follows a checkpoint that failed would be lost.
        """
        with self._waiting():
            self._staged.wait()
        if self._error is not None:
            self.wait()

    def wait(self) -> None:
        """Return when nothing is being written; raise what the last writing raised."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self, lines: Sequence[str]) -> None:
        """Let the save in flight end, and write the ledger's lines of steps that no checkpoint follows.

        The run ends here, for a cause of its own: what goes wrong is told, and hides nothing.
        """
        try:
            self.wait()
        except Exception as error:
            print(f"the last checkpoint is lost: {error}", file=sys.stderr, flush=True)
        try:
            ledger.write(self._own, lines)
        except OSError as error:
            print(f"the ledger's last {len(lines)} lines are lost: {error}", file=sys.stderr, flush=True)

    def retire(self, best: int) -> None:
        """Remove what a finished run needs no more: earlier attempts' checkpoints but the best, and torn ones.

        The newest attempt's stay, for a replay; ledgers, curves and stacks stay, too.
        """
        for attempt in range(1, self.attempt):
            folder = attempt_folder(self._runs, attempt)
            filesystem, path = resolve(folder)
            with contextlib.suppress(TryAgain):  # what the run was for is published
                for name in names_in(folder):
                    if re.fullmatch(r"\.?step-\d{8,}(\.\d+)?", name) and name != name_of(best):
                        with contextlib.suppress(OSError):
                            filesystem.rm(f"{path}/{name}", recursive=True)

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.waited += time.monotonic() - began

    def newest(self) -> Checkpoint | None:
        """Return the newest checkpoint of this run that is whole, or None; a damaged one is passed over.

        Raises:
            TryAgain: the storage fails.
        """
        for uri in sorted(self._found(), key=step_of, reverse=True):
            if (loaded := checkpoint.load(uri, self._run)) is not None:
                self.resumed = self.latest = loaded[0].step
                return loaded
        return None

    def at(self, step: int, digest: str | None = None) -> Checkpoint | None:
        """Return the checkpoint of `step` (the one with `digest`) from whichever attempt has it whole."""
        for uri in self._found():
            loaded = checkpoint.load(uri, self._run) if step_of(uri) == step else None
            if loaded is not None and digest in (None, loaded[0].sha256):
                return loaded
        return None

    def _found(self) -> Iterator[str]:
        for attempt in range(self.attempt, 0, -1):
            folder = attempt_folder(self._runs, attempt)
            seen = (step for step in steps_in(folder) if self._before is None or step < self._before)
            yield from (join(folder, name_of(step)) for step in seen)

    def _guarded(
        self,
        state: State,
        live: Mapping[str, torch.Tensor],
        moment: list[torch.cuda.Event],
        lines: Sequence[str],
    ) -> None:
        try:
            try:
                tensors = self._staging.copy(live, moment)
            finally:
                self._staged.set()
            give_way()
            with storage_away(self._own, "written"):
                ledger.write(self._own, lines)
                checkpoint.write(join(self._own, name_of(state.step)), state, tensors)
            self.latest = state.step
            self._prune(state)
        except BaseException as error:  # raised again by wait(), in the loop's thread
            self._error = error
        finally:
            self._tell(False)

    def _prune(self, state: State) -> None:
        """Remove checkpoints beyond those to keep; of earlier attempts only what is finished.

        An earlier attempt on a node that was cut off may still be running: what it writes is left alone.
        """
        steps = {n: steps_in(attempt_folder(self._runs, n)) for n in range(1, self.attempt + 1)}
        for attempt, step in superfluous(steps, self._keep, state.best_step, self.resumed):
            filesystem, path = resolve(join(attempt_folder(self._runs, attempt), name_of(step)))
            if attempt == self.attempt:
                filesystem.rm(path, recursive=True)
            elif filesystem.exists(f"{path}/{STATE}"):
                with contextlib.suppress(OSError):
                    filesystem.rm(path, recursive=True)


def give_way() -> None:
    """Let every other thread of the process go before this one; on Linux a thread has a priority of its own."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)


def superfluous(steps: Mapping[int, list[int]], keep: int, best: int, verified: int) -> list[tuple[int, int]]:
    """Return (attempt, step) of the checkpoints that go: the newest `keep` over all attempts stay, and the best.

    Args:
        steps: those of each attempt, ascending; the last attempt is the one that asks, and its newest count first.
        keep: how many stay.
        best: the best step.
        verified: the step this attempt has read back and gone on from; of earlier attempts, what is not older
            is neither removed nor counted, except for that step itself.
    """
    own = max(steps)
    ours = [(own, step) for step in reversed(steps[own])]
    earlier = [(n, step) for n, found in steps.items() if n != own for step in found if step <= verified]
    earlier.sort(key=lambda found: (found[1], found[0]), reverse=True)
    return [
        (attempt, step)
        for attempt, step in [*ours, *earlier][keep:]
        if step != best and (attempt == own or step < verified)
    ]
