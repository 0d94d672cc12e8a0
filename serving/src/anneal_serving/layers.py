"""Where a four-bit model leaves full precision: layer by layer for the artifact, then the engine against the artifact.

Only asked when the gate's budget is exceeded. The artifact runs as an OpenVINO graph in float32 whose blocks are results,
over the ids that the quantize stage carried through full precision.
"""

from pathlib import Path

import numpy as np
import openvino as ov
from safetensors.numpy import load_file

from anneal_serving import openvino_ir
from anneal_serving.checkpoint import Checkpoint
from anneal_serving.divergence import PROBE
from anneal_serving.int4 import Array

EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    "KV_CACHE_PRECISION": "f32",
}
APART = 0.05
"""Share of their size by which an engine's logits may differ from its artifact's: a float16 cache costs a thousandth."""


def examine(quantized: Path, engine: Path, properties: dict[str, str]) -> str:
    """Return one sentence: the first layer that diverges, or that the engine does not compute its artifact."""
    probe = load_file(quantized / PROBE)
    ids = probe["input_ids"]
    artifact, *blocks = run(
        ov.Core().compile_model(openvino_ir.build(Checkpoint(quantized), inner=True), "CPU", EXACT), ids
    )
    served = run(ov.Core().compile_model(engine / openvino_ir.MODEL, "CPU", properties), ids)[0]
    apart = relative(served, artifact)
    if not apart <= APART:
        return f"the engine's logits are {apart:.0%} off those of its artifact: the engine is at fault, not the weights"
    errors = [relative(block, truth) for block, truth in zip(blocks, probe["hidden"], strict=True)]
    return sentence(errors)


def run(compiled: ov.CompiledModel, ids: Array) -> list[Array]:
    """Return all results of one row of token ids, without the dimension of sequences."""
    inputs = {
        "input_ids": ids[None].astype(np.int64),
        "attention_mask": np.ones((1, len(ids)), np.int64),
        "position_ids": np.arange(len(ids))[None],
        "beam_idx": np.zeros(1, np.int32),
    }
    answer = compiled.create_infer_request().infer(inputs)
    return [answer[port][0] for port in compiled.outputs]


def relative(found: Array, truth: Array) -> float:
    """Return |found - truth| / |truth|."""
    return float(np.linalg.norm(found - truth) / max(float(np.linalg.norm(truth)), 1e-30))


def sentence(errors: list[float]) -> str:
    """Return which block first does half of the worst harm, from the relative errors after every block."""
    first = next((i for i, error in enumerate(errors) if not error < max(errors) / 2), 0)
    before = errors[first - 1] if first else 0.0
    return (
        f"first diverging layer {first} of {len(errors)}: hidden states are {errors[first]:.0%} off full precision "
        f"after it, {before:.0%} before it"
    )
