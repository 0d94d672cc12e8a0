"""This project's side, each call a fresh process: `python -m data.ours near|tokens documents.json [tokenizer folder]`.

Prints what bench/data/peer.py prints; `peak` is what the resident memory grew by over that before the work, in MiB.
"""

import hashlib
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from anneal_api.finetunejob import Data
from anneal_runtime.chat import ChatEncoder
from anneal_trainers.corpus import near
from anneal_trainers.data.dataset import SplitWriter
from anneal_trainers.data.formats import Row
from anneal_trainers.data.packing import best_fit_decreasing
from anneal_trainers.data.units import UnitMaker

LENGTH = 2048


def duplicates(texts: list[str]) -> dict[str, Any]:
    """Return the group of every document."""
    with tempfile.TemporaryDirectory() as scratch:
        collector, digests = near.Collector(Path(scratch)), []
        for text in texts:
            collector.add(text)
            digests.append(hashlib.sha256(text.encode()).digest())
        collector.close()
        found = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
        groups = near.groups([Path(scratch)], np.arange(len(digests)), found)
    return {"groups": groups.tolist()}


def tokens(texts: list[str], folder: Path) -> dict[str, Any]:
    """Return how many tokens the rows have, and how full their packs are."""
    encoder = ChatEncoder.from_pretrained_folder(folder)
    maker, writer = UnitMaker(encoder, Data(max_length=LENGTH, over_length="split")), SplitWriter(np.uint16)
    for text in texts:
        unit = maker.unit(Row((), text))
        digests = [hashlib.sha256(np.asarray(piece.ids, "<u4").tobytes()).digest() for piece in unit.pieces]
        writer.add(unit.pieces, 0, digests, None)
    with tempfile.TemporaryDirectory() as out:
        lengths = writer.write(Path(out), "train").lengths.tolist()
    packs = best_fit_decreasing(lengths, LENGTH)
    return {"tokens": sum(lengths), "fill": sum(lengths) / (len(packs) * LENGTH)}


def main(what: str, path: str, *rest: str) -> None:
    """Do the work once on two documents, so that imports are no part of it, then measure it."""
    documents = json.loads(Path(path).read_text())
    folders = [Path(each) for each in rest]
    work: Any = {"near": duplicates, "tokens": tokens}[what]
    work(documents[:2], *folders)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    result = work(documents, *folders)
    seconds = time.process_time() - started
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({"seconds": seconds, "peak": peak, **result}))


if __name__ == "__main__":
    main(*sys.argv[1:])
