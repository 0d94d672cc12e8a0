"""A base divided between two real processes computes what a whole one computes, in half of its bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from family_models import write_family
from training_pods import free_port

SCRIPT = Path(__file__).parents[3] / "fsdp_rank.py"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qlora", "lora"])
def test_fsdp_equals_ddp_in_half_of_the_bytes(kind: str, tmp_path: Path) -> None:
    folder, port = write_family(tmp_path / "base", "qwen2"), str(free_port())
    ranks = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), port, str(folder), kind, str(tmp_path / "report")],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()[-2000:]
    for rank in range(2):
        report = json.loads((tmp_path / f"report.{rank}").read_text())
        assert report["loss"] > 1
        assert report["norm"] > 0.1
        assert max(report["differences"]) < 1e-5
        whole, divided = report["bytes"]
        assert 0.49 < divided / whole < 0.51
