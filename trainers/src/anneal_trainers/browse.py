"""`browse`: what a store holds, one JSON line a thing, for whoever cannot mount it; and removing some of it.

The command of the pod that `anneal` starts beside a store: `artifacts HOME` tells the artifacts and the runs' folders below
`<store>/<namespace>`, `ledger RUN` the steps of one run, `samples DATASET` rows of a data set, `remove HOME URI...` takes away what it is given.
"""

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, get_args

from anneal_api.artifacts import DATA_FIGURES, Kind
from anneal_api.base import wire
from anneal_runtime.artifacts import published
from anneal_runtime.errors import Refused
from anneal_runtime.storage import join, resolve
from anneal_trainers.records import ledger
from anneal_trainers.records.runs import names_in

RUNS = "runs"


def main(arguments: list[str]) -> int:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m anneal_trainers browse", description=__doc__)
    what = parser.add_subparsers(dest="what", required=True)
    what.add_parser("artifacts").add_argument("home")
    what.add_parser("ledger").add_argument("run")
    what.add_parser("samples").add_argument("dataset")
    removal = what.add_parser("remove")
    removal.add_argument("home")
    removal.add_argument("uris", nargs="+")
    asked = parser.parse_args(arguments)
    for line in _lines(asked):
        print(json.dumps(line, separators=(",", ":")), flush=True)
    return os.EX_OK


def _lines(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    match asked.what:
        case "artifacts":
            return artifacts(asked.home)
        case "ledger":
            return steps(asked.run)
        case "samples":
            return samples(asked.dataset)
        case _:
            return remove(asked.home, asked.uris)


def artifacts(home: str) -> Iterator[dict[str, Any]]:
    """Yield every artifact below `home` (its manifest, with the files' bytes summed up) and every run's folder."""
    for kind in get_args(Kind):
        for name in names_in(join(home, kind)):
            yield from _artifact(join(home, kind, name))
    for name in names_in(join(home, RUNS)):
        yield {"run": join(home, RUNS, name)}


def _artifact(uri: str) -> Iterator[dict[str, Any]]:
    try:
        manifest = published(uri)
    except Refused:  # a manifest that is none of Anneal's is somebody else's folder
        return
    if manifest is not None:
        told = wire(manifest.model_copy(update={"files": [], "metadata": {}}))
        size = sum(file.size for file in manifest.files)
        yield {"uri": uri, "digest": manifest.digest, "bytes": size, "manifest": told}


def steps(run: str) -> Iterator[dict[str, Any]]:
    """Yield every step of a run's ledger, without the rows it was made of."""
    for entry in ledger.read(run):
        yield {name: value for name, value in asdict(entry).items() if name != "rows"}


def samples(dataset: str) -> Iterator[dict[str, Any]]:
    """Yield the rows that a data set's report shows: some that were left out or changed, persons and secrets redacted."""
    filesystem, path = resolve(join(dataset, DATA_FIGURES))
    with filesystem.open(path) as stream:
        yield from json.load(stream)["samples"]


def remove(home: str, uris: list[str]) -> Iterator[dict[str, Any]]:
    """Remove folders below `home`, and yield each that is gone.

    Raises:
        Refused: a folder is not below it, two levels deep as artifacts and runs are.
    """
    for uri in uris:
        _check(home, uri)
    for uri in uris:
        filesystem, path = resolve(uri)
        if filesystem.exists(path):
            filesystem.rm(path, recursive=True)
        yield {"removed": uri}


def _check(home: str, uri: str) -> None:
    parts = uri.removeprefix(home.rstrip("/") + "/").split("/")
    if parts[0] not in (*get_args(Kind), RUNS) or len(parts) != 2 or parts[1] in ("", ".", ".."):
        raise Refused(
            "NotBelowHome", f"uris: {uri} is no artifact and no run's folder of {home}; name one that is"
        )
