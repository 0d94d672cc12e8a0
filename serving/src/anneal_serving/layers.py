"""Where a four-bit model leaves full precision: layer by layer for the artifact, then the engine against the artifact.

Only asked when the gate's budget is exceeded. The artifact runs in float32, by whatever the image at hand computes with, over the
ids that the quantize stage carried through full precision.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

from anneal_serving.checkpoint import Checkpoint
from anneal_serving.decoder import Decoder
from anneal_serving.divergence import PROBE, direction
from anneal_serving.int4 import Array

States = Callable[[Checkpoint, Array], list[Array]]
"""Runs a checkpoint over a row of ids: its logits [tokens, vocabulary], then every block's output [tokens, hidden]."""
Served = Callable[[Array], Array]
"""Runs the engine over a row of ids: its logits, of as many of them as it takes."""
APART = 0.05
"""Share of their size by which an engine's logits may differ from its artifact's: a float16 cache costs a thousandth."""


STANDS_OUT = 0.5
"""Relative error of a projection's weight above which it is not its model's: four bits cost 0.05 to 0.2, swapped nibbles or scales
of other rows 1 and more."""


def examine(quantized: Path, states: States, served: Served) -> str:
    """Return one sentence: a constant that is not the model's, that the engine does not compute its artifact, or the
    first layer that diverges and which of its projections does it."""
    checkpoint = Checkpoint(quantized)
    probe = load_file(quantized / PROBE)
    if wrong := constants(checkpoint.decoder, quantized / PROBE):
        return wrong
    artifact, *blocks = states(checkpoint, probe["input_ids"])
    logits = served(probe["input_ids"])[
        :, : artifact.shape[1]
    ]  # less what a runtime pads its vocabulary with
    apart = relative(logits, artifact[: len(logits)])
    if not apart <= APART:
        return f"the engine's logits are {apart:.0%} off those of its artifact: the engine is at fault, not the weights"
    errors = [by_position(block, truth) for block, truth in zip(blocks, probe["hidden"], strict=True)]
    weights = [projections(checkpoint, probe, layer) for layer in range(len(errors))]
    # Four bits' own errors grow from layer to layer and may outgrow what one spoiled projection does.
    foreign = next((layer for layer, off in enumerate(weights) if stands_out(off)), None)
    first = diverging(errors) if foreign is None else foreign
    return f"{sentence(errors, first)}; {verdict(weights[first])}"


def constants(decoder: Decoder, path: Path) -> str:
    """Return which of the checkpoint's constants is not what it was made with; empty when all are."""
    with safe_open(path, framework="numpy") as file:
        made: dict[str, Any] = json.loads(file.metadata()["decoder"])
    found = asdict(decoder)
    wrong = [
        f"{name} is {found[name]}, the model's {value}"
        for name, value in made.items()
        if found[name] != value
    ]
    return f"the artifact's constants are not its model's: {', '.join(wrong)}" if wrong else ""


def projections(checkpoint: Checkpoint, probe: dict[str, Array], layer: int) -> dict[str, float]:
    """Return how far each projection of a layer is from the model's weights, relatively."""
    return {
        name: relative(checkpoint.layer(layer, name).weight() @ direction(width), probe[f"{layer}.{name}"])
        for name, (_, width) in checkpoint.decoder.linears().items()
    }


def stands_out(off: dict[str, float]) -> bool:
    """Whether a projection is not its model's."""
    return not all(error < STANDS_OUT for error in off.values())


def verdict(off: dict[str, float]) -> str:
    """Return which projection of a layer is furthest from the model's weights, in words."""
    worst = max(off, key=lambda name: off[name])
    if not stands_out(off):
        return f"none of its projections stands out ({worst} most, its weights {off[worst]:.0%} off)"
    return f"its {worst} does it: its weights are {off[worst]:.0%} off the model's"


def relative(found: Array, truth: Array) -> float:
    """Return |found - truth| / |truth|."""
    return float(np.linalg.norm(found - truth) / max(float(np.linalg.norm(truth)), 1e-30))


def by_position(found: Array, truth: Array) -> float:
    """Return the mean over positions of |found - truth| / |truth|.

    A trained model's first position often has activations a hundred times as large as all others': in one norm over all
    it would hide what happens to the rest.
    """
    sizes = np.maximum(np.linalg.norm(truth, axis=-1), 1e-30)
    return float(np.mean(np.linalg.norm(found - truth, axis=-1) / sizes))


def diverging(errors: list[float]) -> int:
    """Return which block first does half of the worst harm, from the relative errors after every block."""
    return next((i for i, error in enumerate(errors) if not error < max(errors) / 2), 0)


def sentence(errors: list[float], first: int) -> str:
    """Return the block that diverges first and its errors, from those after every block, in words."""
    before = errors[first - 1] if first else 0.0
    return (
        f"first diverging layer {first} of {len(errors)}: hidden states are {errors[first]:.0%} off full precision "
        f"after it, {before:.0%} before it"
    )
