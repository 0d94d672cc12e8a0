"""The memory plan against the measured peak of a process that trains on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from anneal_api.memory import CPU, GIB, LOGIT_CHUNK, training_plan
from anneal_runtime import model_shape
from anneal_trainers.base import base_model
from anneal_trainers.training import losses

TINY = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY |= {"num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 16_384}
MIDDLE = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8}
MIDDLE |= {"num_key_value_heads": 4, "vocab_size": 8192, "max_position_embeddings": 4096}


def test_logits_are_planned_for_the_chunk_the_loss_takes() -> None:
    assert LOGIT_CHUNK == losses.CHUNK


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "rank", "tokens", "kind"),
    [(TINY, 8, 8192, "qlora"), (MIDDLE, 16, 1024, "qlora"), (MIDDLE, 64, 512, "lora")],
    ids=["long packs", "NF4", "float32"],
)
def test_the_plan_is_within_15_percent_of_the_peak(
    tmp_path: Path, shape: dict[str, Any], rank: int, tokens: int, kind: str
) -> None:
    peak = measured_peak(tmp_path, shape, rank, tokens, kind)
    planned = training_plan(
        model_shape.shape_of(base_model.read_config(f"file://{tmp_path}/base")),
        CPU,
        quantized=kind == "qlora",
        rank=rank,
        tokens=tokens,
        memory_gib=8,
    )
    assert planned.needed == pytest.approx(peak, rel=0.15), (
        f"{planned.arithmetic}; measured {peak / GIB:.2f} GiB"
    )


def measured_peak(folder: Path, shape: dict[str, Any], rank: int, tokens: int, kind: str) -> int:
    """Train in a process of its own and return the most bytes it held."""
    probe = Path(__file__).with_name("memory_probe.py")
    done = subprocess.run(
        [sys.executable, str(probe), str(folder), json.dumps(shape), str(rank), str(tokens), kind],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout.splitlines()[-1])
