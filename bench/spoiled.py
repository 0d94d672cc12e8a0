"""What the gate says of a real model at its default budgets: intact in INT4, by plain rounding, and spoiled in one place.

Each goes through the engine and gate stages as pods run them; what is recorded is whether the gate stopped it and named
the place. Verdicts are kept in the cache, by the gate's key, so a run that is cut off goes on from there; nothing here is timed.
"""

import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import deployed
import numpy as np
import smollm2
from report import Figure, record
from safetensors.numpy import load_file, save_file

from anneal_api.runs import ENV_TERMINATION_LOG, DeploymentRun
from anneal_runtime import artifacts
from anneal_runtime.errors import Refused
from anneal_serving import engine, gate, stages
from anneal_serving.checkpoint import CONFIG, WEIGHTS

LIMITS = {"maxInputLength": 512, "maxSequenceLength": 1024}
LAYER = 17
NAMED = f"first diverging layer {LAYER} "


@dataclass(frozen=True)
class Spoil:
    """A change of an artifact's files, of which stage, and what the gate shall say of it."""

    name: str
    stage: str
    change: Callable[[Path], None]
    says: str


def swap_nibbles(folder: Path) -> None:
    """Change the order of the two weights in each byte of one projection."""
    _change(folder, f"transformer.layers.{LAYER}.mlp.proj.weight", _swapped)


def shift_scales(folder: Path) -> None:
    """Give each output of one projection the scales of the one before."""
    _change(
        folder,
        f"transformer.layers.{LAYER}.mlp.fc.weights_scaling_factor",
        lambda scales: np.roll(scales, 1, 0),
    )


def _swapped(packed: Any) -> Any:
    unsigned = packed.view(np.uint8)
    return (unsigned >> 4 | unsigned << 4).view(np.int8)


def _change(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors[name] = np.ascontiguousarray(change(tensors[name]))
    save_file(tensors, folder / WEIGHTS)


def drop_rotary(folder: Path) -> None:
    """Leave out the rotary base: readers then take 10,000, and this model was trained with 100,000."""
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"rotary_base": 10_000.0}))


def other_pre_tokenizer(folder: Path) -> None:
    """Leave out that digits stand alone, as a tokenizer read from a GGUF does."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    kept = [step for step in tokenizer["pre_tokenizer"]["pretokenizers"] if step["type"] != "Digits"]
    assert len(kept) < len(tokenizer["pre_tokenizer"]["pretokenizers"]), "this tokenizer has no such step"
    tokenizer["pre_tokenizer"]["pretokenizers"] = kept
    path.write_text(json.dumps(tokenizer))


def other_template(folder: Path) -> None:
    """Put a space at the end of the chat template."""
    path = folder / "chat.json"
    chat = json.loads(path.read_text())
    path.write_text(json.dumps(chat | {"template": chat["template"] + " "}))


SPOILS = (
    Spoil(
        f"nibbles swapped in layer {LAYER}'s mlp.proj",
        "quantize",
        swap_nibbles,
        f"{NAMED}.* its mlp.proj does it",
    ),
    Spoil(
        f"scales shifted in layer {LAYER}'s mlp.fc", "quantize", shift_scales, f"{NAMED}.* its mlp.fc does it"
    ),
    Spoil("the rotary base dropped", "quantize", drop_rotary, "rope_theta is 10000.0, the model's 100000.0"),
    Spoil(
        "another pre-tokenizer",
        "engine",
        other_pre_tokenizer,
        "tokenizer.json of the engine is not its model's",
    ),
    Spoil("another chat template", "engine", other_template, "chat.json of the engine is not its model's"),
)


def copied(source: DeploymentRun, target: DeploymentRun, stage: str, change: Callable[[Path], None]) -> None:
    """Publish a stage's artifact in another store, changed."""
    folder = deployed.folder_of(source, stage)
    manifest = artifacts.published(f"file://{folder}")
    assert manifest is not None
    with stages.publish(target, stage, manifest.inputs) as publication:
        for file in manifest.files:
            shutil.copyfile(folder / file.path, publication.folder / file.path)
        change(publication.folder)
        publication.metadata.update(manifest.metadata)


@dataclass(frozen=True)
class Verdict:
    """Whether the gate lets a version pass, what it measured (nothing of one that it refused), and what it says."""

    passed: bool
    logit_kl: float
    perplexity_increase: float
    says: str


def judged(run: DeploymentRun) -> Verdict:
    """Return what the gate makes of a version."""
    try:
        found = gate.run(run)
    except Refused as refusal:
        return Verdict(False, math.nan, math.nan, refusal.message)
    figures = {"logitKL": found.logit_kl, "perplexityIncrease": found.perplexity_increase}
    over = gate.beyond(run.spec.gate, figures)
    return Verdict(not over, found.logit_kl, found.perplexity_increase, found.diagnosis)


def figures(name: str, found: Verdict, target: str, met: bool) -> list[Figure]:
    """Return what was measured, if anything, and whether the gate did what it shall."""
    print(f"{name}: {'passed' if found.passed else 'stopped'}: {found}", flush=True)
    measured = [
        Figure(f"{name}: mean KL", found.logit_kl, "nats/token"),
        Figure(f"{name}: worst task's perplexity increase", 100 * found.perplexity_increase, "%"),
    ]
    return [
        *(figure for figure in measured if math.isfinite(figure.value)),
        Figure(f"{name}: {target}", float(met), "of 1", "", target, met),
    ]


def intact(run: DeploymentRun) -> Verdict:
    """Return what the gate makes of a version as its stages made it; what is published is not made again."""
    deployed.compiled(run)
    return judged(run)


def spoiled(spoil: Spoil, source: DeploymentRun) -> Verdict:
    """Return what the gate makes of a copy of `source`, spoiled in one place."""
    with tempfile.TemporaryDirectory() as folder:
        run = source.model_copy(update={"store": f"file://{folder}"})
        for stage in ("quantize", "engine"):
            if stage == spoil.stage:
                copied(source, run, stage, spoil.change)
            elif stage == "quantize":
                copied(source, run, stage, lambda _: None)
            else:
                engine.run(run)
        return judged(run)


def kept(name: str, run: DeploymentRun, judge: Callable[[DeploymentRun], Verdict]) -> Verdict:
    """Return the verdict on what is made of `run`, the one given before if there is one."""
    return Verdict(**deployed.kept(run, name, lambda: asdict(judge(run))))


def main() -> None:
    """Try all and record what the gate did."""
    model, store = smollm2.exported(), f"file://{smollm2.CACHE}/store"
    awq, rounded = (deployed.planned(model, method, store, LIMITS) for method in ("awq", "rtn"))
    made = []
    for run, passes in ((awq, True), (rounded, False)):
        found = kept("intact", run, intact)
        told = "passed" if passes else "stopped"
        made += figures(f"{run.name}, intact", found, told, found.passed is passes)
    for spoil in SPOILS:
        found = kept(spoil.name, awq, partial(spoiled, spoil))
        named = not found.passed and re.search(spoil.says, found.says) is not None
        made += figures(spoil.name, found, "stopped and named", named)
    record("spoiled", made)


if __name__ == "__main__":
    os.environ.setdefault(ENV_TERMINATION_LOG, "/dev/null")
    main()
