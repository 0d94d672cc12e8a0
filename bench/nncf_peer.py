"""NNCF's INT4 of an OpenVINO graph, in an environment of its own: `python nncf_peer.py MODEL.xml ROWS.json GROUP TARGET.xml`.

Symmetric, a scale for GROUP weights, what is not a linear layer of a block left as it is: the bits of our artifact. AWQ and scale
estimation are asked for, and look at the rows (token ids) that ours look at. Prints the CPU seconds it took.
"""

import json
import sys
import time
from pathlib import Path

import nncf
import numpy as np
import openvino as ov


def inputs(ids: list[int]) -> dict[str, np.ndarray]:
    """Return the graph's inputs for a row."""
    return {
        "input_ids": np.array([ids], np.int64),
        "attention_mask": np.ones((1, len(ids)), np.int64),
        "position_ids": np.arange(len(ids))[None],
        "beam_idx": np.zeros(1, np.int32),
    }


def main(source: str, rows: str, group: str, target: str) -> None:
    """Compress and save."""
    model = ov.Core().read_model(source)
    seen = json.loads(Path(rows).read_text())
    started = time.process_time()
    compressed = nncf.compress_weights(
        model,
        mode=nncf.CompressWeightsMode.INT4_SYM,
        ratio=1.0,
        group_size=int(group),
        backup_mode=nncf.BackupMode.NONE,
        dataset=nncf.Dataset(seen, inputs),
        subset_size=len(seen),
        awq=True,
        scale_estimation=True,
    )
    seconds = time.process_time() - started
    ov.save_model(compressed, target, compress_to_fp16=False)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
