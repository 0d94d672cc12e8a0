"""Runs the contestants, each in a fresh process on one thread, in turns: A B C A B C, and so on."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import smollm2
from report import Figure, record

from train import fill, rows
from train.measure import Job, Result

ROOT = Path(__file__).parents[2]
PEERS = ROOT / ".venv-peers" / "bin" / "python"
CAPACITY = 1024
"""Positions of a pack; the full size is rows.FULL. A step at the full size would take most of a minute."""
TRIALS = 3
TRAIN_ROWS, HELD_OUT_ROWS = 28, 8
BATCH = 6
"""Rows of a padded batch: as many as a pack of CAPACITY holds on average."""
CONTESTANTS: dict[str, list[str]] = {
    "anneal": [sys.executable, "-m", "train.ours"],
    "TRL packing": [str(PEERS), "-m", "train.trl_peer", "packing"],
    "TRL grouped": [str(PEERS), "-m", "train.trl_peer", "grouped"],
    "TRL dynamic": [str(PEERS), "-m", "train.trl_peer", "dynamic"],
    "plain padded": [sys.executable, "-m", "train.plain"],
}
SAME_STEPS = ("TRL packing", "plain padded")
"""Who takes the same rows as we in every step."""
Results = dict[str, list[Result]]


def figures(model: Path, texts: Sequence[Path]) -> list[Figure]:
    """Return the figures of all contestants, and of the two that matter where every token is learned."""
    half = contest(model, texts, CONTESTANTS, all_learned=False)
    best = {name: CONTESTANTS[name] for name in ("anneal", "TRL packing")}
    whole = contest(model, texts, best, all_learned=True)
    return [
        *compared(half),
        *ratio_of(whole, "with every token learned: tokens per CPU-second over TRL's packing"),
    ]


def contest(
    model: Path, texts: Sequence[Path], contestants: Mapping[str, list[str]], *, all_learned: bool
) -> Results:
    """Return TRIALS results of each contestant on the same rows."""
    with TemporaryDirectory() as scratch:
        job = prepare(Path(scratch), model, texts, all_learned=all_learned)
        found: Results = {name: [] for name in contestants}
        for trial in range(TRIALS):
            for name, command in contestants.items():
                result = Result.parse(run(command, job))
                print(f"trial {trial} {name}: {result.tokens_per_cpu_second:.1f} tokens/CPU-s", flush=True)
                found[name].append(result)
    return found


def prepare(folder: Path, model: Path, texts: Sequence[Path], *, all_learned: bool) -> Path:
    """Write rows and the job into `folder`; the packs are those TRL makes."""
    stream = rows.token_stream(model, texts)
    for seed, (name, count) in enumerate({"train": TRAIN_ROWS, "held_out": HELD_OUT_ROWS}.items()):
        sizes = rows.lengths(count, CAPACITY, seed)
        rows.write(folder, name, stream, sizes, seed=seed, all_learned=all_learned)
    path = folder / "job.json"
    path.write_text(json.dumps(asdict(Job(str(model), str(folder), CAPACITY, [], BATCH))))
    packs = json.loads(run([str(PEERS), "-m", "train.trl_peer", "packs"], path))
    path.write_text(json.dumps(asdict(Job(str(model), str(folder), CAPACITY, packs, BATCH))))
    return path


def run(command: Sequence[str], job: Path, extra: Mapping[str, str] = {}) -> str:
    """Run a contestant and return the last line it printed; exit with its errors when it failed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"} | extra
    done = subprocess.run([*command, str(job)], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return done.stdout.splitlines()[-1]


def median(results: Sequence[Result], value: Callable[[Result], float]) -> float:
    """Return the median of a value over trials."""
    return statistics.median(value(result) for result in results)


def compared(found: Results) -> list[Figure]:
    """Return the figures of every contestant, and how we compare."""
    shown: list[Figure] = []
    for name, results in found.items():
        speed = median(results, lambda r: r.tokens_per_cpu_second)
        memory = median(results, lambda r: r.peak) / 1e6
        shown += [
            Figure(f"{name}: tokens per CPU-second", speed, "tokens/s"),
            Figure(f"{name}: peak resident memory", memory, "MB"),
            Figure(
                f"{name}: computed positions that are padding", median(results, lambda r: r.waste), "share"
            ),
        ]
    share = sum(s.learned for s in found["anneal"][0].steps) / sum(s.tokens for s in found["anneal"][0].steps)
    shown.append(Figure("learned tokens", share, "share"))
    shown += ratio_of(found, "tokens per CPU-second over TRL's packing", 1.6)
    return shown + agreement(found)


def ratio_of(found: Results, what: str, target: float | None = None) -> list[Figure]:
    """Return how many times faster we are than TRL's packing."""
    ours, theirs = (median(found[n], lambda r: r.tokens_per_cpu_second) for n in ("anneal", "TRL packing"))
    ratio = ours / theirs
    if target is None:
        return [Figure(what, ratio, "ratio", "TRL 1.16 packing")]
    return [Figure(what, ratio, "ratio", "TRL 1.16 packing", f">= {target}", ratio >= target)]


def agreement(found: Results) -> list[Figure]:
    """Return the largest differences of losses: held-out ones at the end, and a step's own on the same rows."""
    ours = found["anneal"][0]
    shown = [Figure("anneal: held-out loss after all rows", ours.held_out, "nats/token")]
    for name in [name for name in found if name != "anneal"]:
        gap = max(abs(r.held_out - ours.held_out) for r in found[name])
        shown.append(Figure(f"{name}: held-out loss differs from ours by", gap, "nats/token"))
    for name in SAME_STEPS:
        steps = [pair for r in found[name] for pair in zip(r.steps, ours.steps, strict=True)]
        assert all((a.tokens, a.learned) == (b.tokens, b.learned) for a, b in steps), f"{name}: other rows"
        gap = max(abs(a.loss - b.loss) for a, b in steps)
        shown.append(
            Figure(f"{name}: a step's training loss differs from ours by at most", gap, "nats/token")
        )
    return shown


def main() -> None:
    """Measure and record."""
    record("train", [*fill.figures(), *figures(*smollm2.base_and_texts())])


if __name__ == "__main__":
    main()
