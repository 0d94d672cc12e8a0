"""A checkpoint divided between the accelerators of one replica, as TensorRT-LLM's tensor parallelism reads it.

Nothing is rounded again, so an artifact is quantised once for any number of accelerators. Queries, keys, values and the
gated unit are divided by outputs; what follows them, by inputs, in whole groups; both tables by tokens. A layer divided
by outputs sees the whole input, so it keeps the whole pre-quant scale.
"""

import json
from pathlib import Path

import numpy as np

from anneal_serving.checkpoint import CONFIG, EMBEDDING, HEAD, Checkpoint, Writer, tensor_specs
from anneal_serving.decoder import Decoder
from anneal_serving.int4 import Array

_BY_OUTPUTS = ("mlp.fc", "mlp.gate")
_BY_INPUTS = ("attention.dense", "mlp.proj")


def write(checkpoint: Checkpoint, folder: Path, ranks: int) -> None:
    """Write config.json and one file a rank into `folder`.

    Raises:
        Refused: sizes that do not divide.
    """
    decoder = checkpoint.decoder
    decoder.check_ranks(ranks, checkpoint.group)
    mapping = {"world_size": ranks, "tp_size": ranks, "pp_size": 1}
    config = checkpoint.config | {"mapping": mapping, "use_parallel_embedding": True}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=2))
    specs = tensor_specs(decoder.share(ranks), checkpoint.group)
    for rank in range(ranks):
        with Writer(folder / f"rank{rank}.safetensors", specs) as writer:
            for name in specs:
                writer.write(name, part(decoder, name, checkpoint.tensor(name), rank, ranks))


def part(decoder: Decoder, name: str, tensor: Array, rank: int, ranks: int) -> Array:
    """Return the part of a checkpoint's tensor that `rank` of `ranks` holds."""
    layer, _, kind = name.removeprefix("transformer.layers.").partition(".")[2].rpartition(".")
    if layer == "attention.qkv" and kind != "prequant_scaling_factor":
        return _heads(decoder, tensor, rank, ranks)
    if layer in _BY_INPUTS:
        return np.split(tensor, ranks, axis=-1)[rank]
    if name in (EMBEDDING, HEAD) or (layer in _BY_OUTPUTS and kind != "prequant_scaling_factor"):
        return np.split(tensor, ranks)[rank]
    return tensor


def _heads(decoder: Decoder, stacked: Array, rank: int, ranks: int) -> Array:
    """Return a rank's queries, keys and values of [q + k + v, ...], or of as many bytes of two rows each."""
    outputs = decoder.query_size + 2 * decoder.kv_size
    ends = np.array([decoder.query_size, decoder.query_size + decoder.kv_size]) * len(stacked) // outputs
    return np.concatenate([np.split(kept, ranks)[rank] for kept in np.split(stacked, ends)])
