"""What `layers` asks of OpenVINO: the artifact as a graph in float32 whose blocks are results, and the engine that serves."""

from functools import partial
from pathlib import Path

import numpy as np
import openvino as ov

from anneal_serving import layers, openvino_ir
from anneal_serving.checkpoint import Checkpoint
from anneal_serving.int4 import Array

EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    "KV_CACHE_PRECISION": "f32",
}


def examine(quantized: Path, engine: Path, properties: dict[str, str]) -> str:
    """Return where the artifact, or else the engine in a folder, leaves full precision; see layers.examine."""
    return layers.examine(quantized, states, partial(_served, engine, properties))


def states(checkpoint: Checkpoint, ids: Array) -> list[Array]:
    """Return a checkpoint's logits over `ids`, and the output of every block."""
    return _run(ov.Core().compile_model(openvino_ir.build(checkpoint, inner=True), "CPU", EXACT), ids)


def _served(engine: Path, properties: dict[str, str], ids: Array) -> Array:
    return _run(ov.Core().compile_model(engine / openvino_ir.MODEL, "CPU", properties), ids)[0]


def _run(compiled: ov.CompiledModel, ids: Array) -> list[Array]:
    """Return all results of one row of token ids, without the dimension of sequences."""
    inputs = {
        "input_ids": ids[None].astype(np.int64),
        "attention_mask": np.ones((1, len(ids)), np.int64),
        "position_ids": np.arange(len(ids))[None],
        "beam_idx": np.zeros(1, np.int32),
    }
    answer = compiled.create_infer_request().infer(inputs)
    return [answer[port][0] for port in compiled.outputs]
