"""The ledger: what every optimizer step was made of, and what came of it, one JSON line a step.

Lines are written in parts, `<runs>/attempt-<A>/ledger/step-<N>.jsonl` with N the last step in it: one with every
checkpoint and one when an attempt ends early. Floats are written so that they read back as the same bits.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from anneal_api.runs import attempt_folder
from anneal_runtime.storage import flush_to_disk, is_local, join, resolve
from anneal_trainers.records.runs import attempts, names_in

DIGEST_BYTES = 8
"""Of a row's digest: enough to tell apart the rows of any dataset."""


@dataclass(frozen=True)
class Entry:
    """One step. `step` counts from 1, as the number of finished steps; `rows` are in the order of the plan.

    `loss` and `gradient_norm` (before clipping) are what the step computed, also where it was not `finite`
    and so skipped; `task_losses` are the mean nll of a learned token of each task that had rows in it.
    """

    step: int
    stage: int
    learning_rate: float
    loss: float
    gradient_norm: float
    finite: bool
    task_losses: dict[str, float]
    rows: list[str]
    attempt: int
    world: int

    def line(self) -> str:
        """Return the entry as one line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))


@dataclass
class Ledger:
    """Entries that no file holds yet."""

    _lines: list[str] = field(default_factory=list)

    def append(self, entry: Entry) -> None:
        """Add the entry of a step."""
        self._lines.append(entry.line())

    def take(self) -> list[str]:
        """Return the lines since the last call, for the caller to have written."""
        taken, self._lines = self._lines, []
        return taken


def write(folder: str, lines: Sequence[str]) -> None:
    """Write `lines` as one part into the attempt's `folder`; it appears whole."""
    if not lines:
        return
    name, text = f"step-{json.loads(lines[-1])['step']:08d}.jsonl", "\n".join(lines) + "\n"
    filesystem, path = resolve(join(folder, "ledger"))
    if is_local(folder):
        _write_local(Path(path, name), text)
    else:
        filesystem.pipe_file(f"{path}/{name}", text.encode())


def read(runs: str) -> list[Entry]:
    """Return the entry of every step on the line that the newest attempt stands on, in order.

    An attempt's entries count from its first step up to the first step of a later attempt: there the later
    one went on from a checkpoint, and what the earlier one had done beyond it was lost and done again.
    """
    line: list[Entry] = []
    for attempt in attempts(runs):
        entries = sorted(_entries(attempt_folder(runs, attempt)), key=lambda entry: entry.step)
        line = [old for old in line if not entries or old.step < entries[0].step] + entries
    return line


def _entries(folder: str) -> Iterator[Entry]:
    uri = join(folder, "ledger")
    filesystem, path = resolve(uri)
    for name in names_in(uri):
        if name.endswith(".jsonl") and not name.startswith("."):
            lines = filesystem.cat_file(f"{path}/{name}").decode().splitlines()
            yield from (Entry(**json.loads(line)) for line in lines)


def _write_local(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    with partial.open("w") as stream:
        stream.write(text)
    flush_to_disk(partial)
    partial.rename(file)
    flush_to_disk(file.parent)
