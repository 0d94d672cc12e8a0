"""Memory that ran out is told with the micro-batch, the amount and the remedies; other errors pass unchanged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anneal_api.finetunejob import FineTuneJobSpec
from anneal_trainers.pod import out_of_memory
from anneal_trainers.pod.channel import Channel
from anneal_trainers.pod.out_of_memory import OutOfMemory, describe, explained


def spec(**fields: Any) -> FineTuneJobSpec:
    base = {
        "baseModel": {"uri": "file:///unused"},
        "tasks": [{"name": "a", "data": {"uri": "file:///unused"}}],
        "output": {"uri": "file:///unused"},
    }
    return FineTuneJobSpec.model_validate(base | fields)


def refused_by_torch() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def refused_by_numpy() -> None:
    np.empty(1 << 60, np.uint8)


def refused_by_an_accelerator() -> None:
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total of 79 GiB"
    )


def refused_by_python() -> None:
    raise MemoryError


@pytest.mark.parametrize(
    ("work", "amount"),
    [
        (refused_by_torch, "1152921504606846976 bytes"),
        (refused_by_numpy, "1.00 EiB"),
        (refused_by_an_accelerator, "2.50 GiB"),
        (refused_by_python, None),
    ],
)
def test_an_allocators_error_names_batch_amount_and_remedies(work: Any, amount: str | None) -> None:
    channel = Channel(None)
    channel.beat("step", step=17)
    channel.beat("compute", shape=(3, 512))
    with pytest.raises(OutOfMemory) as caught:
        with explained(channel, spec()):
            work()
    message = str(caught.value)
    assert message.startswith("memory ran out in phase compute, micro-batch of 3 x 512 positions in step 17")
    assert ("asked for" in message) == (amount is not None)
    assert amount is None or f"when {amount} more" in message
    assert "spec.data.maxLength (now 4096)" in message


def test_another_error_stays_what_it_was() -> None:
    with pytest.raises(RuntimeError, match="^size mismatch$") as caught:
        with explained(Channel(None), spec()):
            raise RuntimeError("size mismatch")
    assert not isinstance(caught.value, OutOfMemory)


def test_outside_of_a_batch_only_the_phase_is_named() -> None:
    channel = Channel(None)
    channel.beat("compute", step=2, shape=(1, 16))
    channel.beat("reduce")
    with pytest.raises(OutOfMemory, match=r"^memory ran out in phase reduce\. lower"):
        with explained(channel, spec()):
            raise MemoryError


def test_only_what_would_help_is_advised() -> None:
    first = describe(spec(), "compute", "")
    assert "fsdp" in first
    assert "bestFit" not in first
    assert "set spec.adapter.type to qlora" not in first
    other = spec(
        workers={"strategy": "fsdp", "nodes": 2},
        adapter={"type": "lora", "rank": 192},
        data={"packing": "none", "maxLength": 128},
    )
    second = describe(other, "compute", "")
    for words in ("nodes (now 2)", "bestFit", "qlora", "rank (now 192)", "maxLength (now 128)"):
        assert words in second
    assert "fsdp" not in second


def test_the_kernels_kills_are_counted_in_either_kind_of_cgroup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second, first = tmp_path / "memory.events", tmp_path / "memory.oom_control"
    monkeypatch.setattr(out_of_memory, "_EVENTS", (str(second), str(first)))
    assert out_of_memory.kills() == 0
    second.write_text("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n")
    assert out_of_memory.kills() == 2
    second.unlink()
    first.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n")
    assert out_of_memory.kills() == 5
