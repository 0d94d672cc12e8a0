"""A rank starts without what it never uses."""

import subprocess
import sys

import pytest

LISTED = "import sys, anneal_trainers.train, torch; print(*sys.modules, torch.compile.__name__, sep='\\n')"


@pytest.mark.slow
def test_a_rank_does_not_import_torchs_compiler_and_leaves_it_to_others() -> None:
    names = subprocess.run([sys.executable, "-c", LISTED], check=True, capture_output=True, text=True)
    loaded = names.stdout.split()
    assert {"bitsandbytes", "peft"} <= set(loaded)
    assert "torch._inductor.compile_fx" not in loaded
    assert loaded[-1] == "compile"
