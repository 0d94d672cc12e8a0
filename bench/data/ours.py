"""This project's side, each call a fresh process: `python -m data.ours near|tokens documents.json [tokenizer folder]`.

Prints what bench/data/peer.py prints. `prepare` in place of these does the whole stage, from a file of lines to an
artifact; its `peak` is what the resident memory grew by over that after a stage of a few rows, in MiB.
"""

import hashlib
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from anneal_api.finetunejob import Data, FineTuneJobSpec
from anneal_api.memory import ModelShape
from anneal_api.outcome import FineTuneInspection, FineTuneKeys, TaskFacts
from anneal_api.profiles import AcceleratorProfile
from anneal_api.runs import FineTuneRun
from anneal_runtime.chat import ChatEncoder
from anneal_trainers import prepare
from anneal_trainers.corpus import near
from anneal_trainers.data.dataset import SplitWriter
from anneal_trainers.data.formats import Row
from anneal_trainers.data.packing import best_fit_decreasing
from anneal_trainers.data.units import UnitMaker

LENGTH = 2048
FACTS = FineTuneInspection(
    base_digest="sha256:" + "0" * 64,
    shape=ModelShape(
        architecture="LlamaForCausalLM",
        layers=1,
        hidden=8,
        intermediate=8,
        heads=1,
        kv_heads=1,
        head_size=8,
        vocabulary=8000,
        max_positions=LENGTH,
        tied=True,
    ),
    tasks=[TaskFacts(name="code", digest="sha256:" + "1" * 64, rows=1)],
    keys=FineTuneKeys(prepare="1" * 64, train="2" * 64, evaluate="3" * 64, export="4" * 64),
)
"""What inspection would have found."""


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


def prepared(path: Path, tokenizer: Path) -> dict[str, Any]:
    """Return how many rows the prepare stage, with all that it can do, makes of a file of lines."""
    spec = {
        "baseModel": {"uri": f"file://{tokenizer}"},
        "tasks": [{"name": "code", "data": {"uri": f"file://{path}"}}],
        "data": {
            "maxLength": LENGTH,
            "overLength": "split",
            "dedup": "near",
            "decontaminate": ["humaneval"],
            "filters": {"enabled": True, "licenseHeaders": "remove", "personalData": "redact"},
        },
    }
    with tempfile.TemporaryDirectory() as store:
        spec["output"] = {"uri": f"file://{store}"}
        run = FineTuneRun(
            namespace="bench",
            name="rows",
            uid="bench",
            spec=FineTuneJobSpec.model_validate(spec),
            accelerator=AcceleratorProfile(name="cpu", memory_gib=1),
            inspection=FACTS,
        )
        done = prepare.prepare(run)
        rows = json.loads((Path(done.artifact.uri.removeprefix("file://")) / "rows.json").read_text())
    return {"rows": sum(rows["tasks"][0]["units"].values())}


def memory(kind: str) -> float:
    """Return a figure of this process's memory, MiB; its names are those of proc(5)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{kind}:"))


def main(what: str, path: str, *rest: str) -> None:
    """Do the work once on two documents, so that imports are no part of it, then measure it."""
    folders = [Path(each) for each in rest]
    if what == "prepare":
        few = Path(path).with_suffix(".few.jsonl")
        with Path(path).open() as lines:
            few.write_text("".join(itertools.islice(lines, 20)))
        documents: Any = Path(path)
        work: Any = prepared
        work(few, *folders)
    else:
        documents = json.loads(Path(path).read_text())
        work = {"near": duplicates, "tokens": tokens}[what]
        work(documents[:2], *folders)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what there is
    before = memory("VmHWM")
    started = time.process_time()
    result = work(documents, *folders)
    seconds = time.process_time() - started
    peak = memory("VmHWM") - before
    print(json.dumps({"seconds": seconds, "peak": peak, **result}))


if __name__ == "__main__":
    main(*sys.argv[1:])
