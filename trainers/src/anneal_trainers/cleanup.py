"""`delete`: removes what a run has published, and its working folder. What others published stays."""

from typing import get_args

from anneal_api.artifacts import Kind
from anneal_api.base import Model
from anneal_api.runs import FineTuneRun, runs_folder
from anneal_runtime.artifacts import published
from anneal_runtime.errors import Refused
from anneal_runtime.stage import run_stage
from anneal_runtime.storage import join, resolve
from anneal_trainers.records.runs import names_in


class Deleted(Model):
    """Result of the delete command."""

    artifacts: int


def main() -> int:
    """Run the stage of this pod."""
    return run_stage(delete, FineTuneRun)


def delete(run: FineTuneRun) -> Deleted:
    """Remove every artifact whose manifest names this run, and the run's checkpoints."""
    home = join(run.spec.output.uri, run.namespace)
    removed = sum(_remove_own(join(home, kind), run.uid) for kind in get_args(Kind))
    remove(runs_folder(run))
    return Deleted(artifacts=removed)


def _remove_own(folder: str, uid: str) -> int:
    own = [join(folder, name) for name in names_in(folder) if _is_own(join(folder, name), uid)]
    for uri in own:
        remove(uri)
    return len(own)


def _is_own(uri: str, uid: str) -> bool:
    try:
        manifest = published(uri)
    except Refused:  # a manifest that is none of Anneal's is somebody else's folder
        return False
    return manifest is not None and manifest.producer.uid == uid


def remove(uri: str) -> None:
    """Remove a folder of the store, if it is there."""
    filesystem, path = resolve(uri)
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)
