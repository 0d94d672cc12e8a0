"""A run's working folder: `<store>/<namespace>/runs/<name>-<uid>/attempt-<N>`, and what all attempts share beside."""

import re

from anneal_api.runs import FineTuneRun
from anneal_runtime.storage import join, resolve


def runs_folder(run: FineTuneRun) -> str:
    """Return where this run's working state lies."""
    return join(run.spec.output.uri, run.namespace, "runs", f"{run.name}-{run.uid[:8]}")


def attempt_folder(runs: str, attempt: int) -> str:
    """Return what an attempt writes to."""
    return join(runs, f"attempt-{attempt}")


def attempts(runs: str) -> list[int]:
    """Return the attempts that have written something, in order."""
    names = names_in(runs)
    return sorted(int(name.removeprefix("attempt-")) for name in names if re.fullmatch(r"attempt-\d+", name))


def names_in(uri: str) -> list[str]:
    """Return the names of what lies in a folder, hidden ones too; none where there is no folder."""
    filesystem, path = resolve(uri)
    if not filesystem.isdir(path):
        return []
    return [str(name).rstrip("/").rsplit("/", 1)[-1] for name in filesystem.ls(path, detail=False)]
