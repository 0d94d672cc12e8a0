"""TensorRT's timing cache, kept in the store: what was timed for one engine is not timed again for the next on the same pool.

It holds no weights and changes no result: an engine is built without it too, only later.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anneal_api.runs import DeploymentRun
from anneal_runtime import storage

FOLDER = "timing"
"""Beside the kinds of artifacts, of which it is none: no stage's output follows from it."""


def uri_of(run: DeploymentRun, builder: str) -> str:
    """Return where the cache of a builder (version and compute capability) on this run's accelerator profile lies."""
    return storage.join(run.store, run.namespace, FOLDER, f"{builder}-{run.accelerator.name}.cache")


@contextmanager
def kept(uri: str, path: Path) -> Iterator[None]:
    """Begin with what an earlier build left at `uri`, if any, at `path`; keep there what it has become.

    Of two builds at once the later one's stays. Nothing is kept of a build that failed.
    """
    filesystem, place = storage.resolve(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    if filesystem.exists(place):
        filesystem.get_file(place, str(path))
    yield
    if path.is_file():
        _put(uri, path)


def _put(uri: str, path: Path) -> None:
    filesystem, place = storage.resolve(uri)
    if not storage.is_local(uri):
        filesystem.put_file(str(path), place)
        return
    partial = Path(f"{place}.{uuid.uuid4().hex}")
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(path.read_bytes())
    partial.chmod(0o644)  # builds may run as other users
    os.replace(partial, place)
