"""What a checkpoint is: weights and both moments go on from it as if nothing had been, or it is told what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from anneal_runtime.errors import Refused
from anneal_trainers.records import checkpoint
from anneal_trainers.records.checkpoint import STATE, TENSORS, State


def trained() -> tuple[torch.Tensor, torch.optim.Optimizer]:
    """Return weights and their optimizer after one step, as a run holds them."""
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(1000))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.randn(1000)
    optimizer.step()
    return parameter.data, optimizer


def written(folder: Path) -> str:
    """Write a checkpoint and return where."""
    uri = f"file://{folder}/step-00000001"
    checkpoint.write(uri, State(step=1, run="run"), checkpoint.live_tensors(*trained()))
    return uri


def test_it_holds_weights_and_moments_as_safetensors_writes_them(tmp_path: Path) -> None:
    live = checkpoint.live_tensors(*trained())
    assert sorted(live) == ["adapter", "exp_avg", "exp_avg_sq", "step"]
    written(tmp_path)
    save_file(live, tmp_path / "plain")
    assert (tmp_path / "step-00000001" / TENSORS).read_bytes() == (tmp_path / "plain").read_bytes()


def test_what_is_restored_goes_on_as_what_was_saved(tmp_path: Path) -> None:
    found = checkpoint.load(written(tmp_path), "run")
    assert found is not None
    (flat, optimizer), (again, fresh) = trained(), trained()
    again.zero_()
    checkpoint.restore(found[1], again, fresh)
    for weights, adam in ((flat, optimizer), (again, fresh)):
        parameter = adam.param_groups[0]["params"][0]
        parameter.data, parameter.grad = weights, torch.ones(1000)
        adam.step()
    assert torch.equal(flat, again)


@pytest.mark.parametrize(
    ("change", "told"),
    [({"momentum": 1.0}, "momentum is in"), ({"momentum": 1.0, "passes": None}, "momentum, passes is in")],
    ids=["a field more", "a field more and one less"],
)
def test_a_whole_checkpoint_of_another_build_is_refused_and_what_to_do_is_told(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    """It is no damage: passing it over would throw the run's work away in silence."""
    uri, path = written(tmp_path), tmp_path / "step-00000001" / STATE
    fields = {
        name: value for name, value in (json.loads(path.read_text()) | change).items() if value is not None
    }
    digest = checkpoint._digest(fields, checkpoint.sum_of(path.with_name(TENSORS)))
    path.write_text(json.dumps(fields | {"sha256": digest}))
    with pytest.raises(
        Refused, match=f"step-00000001: {told} .*another build wrote it; go on with the"
    ) as refused:
        checkpoint.load(uri, "run")
    assert refused.value.reason == "OtherBuild"
    assert checkpoint.load(uri, "another run") is None
    path.write_text(json.dumps(fields))
    assert checkpoint.load(uri, "run") is None
