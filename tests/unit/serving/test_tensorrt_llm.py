"""The command that compiles, word by word, and what surrounds it; TensorRT-LLM itself needs its image and a GPU."""

import json
from pathlib import Path

import pytest

from anneal_api import memory
from anneal_api.modeldeployment import Engine
from anneal_runtime.errors import Refused
from anneal_serving import tensorrt_llm
from anneal_serving.triton import scheduler

RECORDED = json.loads((Path(__file__).parent / "golden/tensorrt_llm.json").read_text())
"""Names that TensorRT-LLM's own parsers and templates know; `source` in the file says where they stand."""


@pytest.mark.parametrize("size", [1, 2])
def test_every_flag_is_one_of_the_parsers(size: int) -> None:
    command = tensorrt_llm.build_command(
        Path("/c"), Path("/e"), Engine(tensor_parallel_size=size), Path("/t")
    )
    names = {word.removeprefix("--") for word in command if word.startswith("--")}
    assert names <= {*RECORDED["build"], *RECORDED["plugins"]}
    for name, following in zip(command[1:], [*command[2:], "--"], strict=True):
        if name.startswith("--"):
            # Argparse takes a switch without a value and everything else with one.
            assert (name.removeprefix("--") in RECORDED["flags"]) == following.startswith("--"), name


@pytest.mark.parametrize("scoring", [True, False])
def test_every_argument_of_the_llm_api_is_one_of_its_own(scoring: bool) -> None:
    arguments = tensorrt_llm.llm_arguments(Engine(tensor_parallel_size=2), scoring=scoring)
    assert set(arguments) <= set(RECORDED["llmArguments"])
    assert arguments["tensor_parallel_size"] == 2
    # Logits of whole prompts: none from blocks that are reused, none in parts.
    assert arguments["kv_cache_config"]["enable_block_reuse"] is not scoring
    assert arguments["enable_chunked_prefill"] is not scoring
    assert arguments["max_num_tokens"] == (4096 if scoring else memory.BATCH_TOKENS)


def test_trtllm_build_command() -> None:
    engine = Engine(max_batch_size=8, max_input_length=4096, max_sequence_length=6144)
    command = tensorrt_llm.build_command(Path("/c"), Path("/e"), engine, Path("/tmp/timing.cache"))
    assert " ".join(command) == (
        "trtllm-build --checkpoint_dir /c --output_dir /e --gemm_plugin auto --max_batch_size 8 "
        "--max_input_len 4096 --max_seq_len 6144 --max_num_tokens 2048 --use_paged_context_fmha enable "
        "--kv_cache_type paged --input_timing_cache /tmp/timing.cache "
        "--output_timing_cache /tmp/timing.cache --gather_context_logits"
    )


def test_the_command_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin/trtllm-build"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nmkdir -p "$4" && echo "$@" > "$4/arguments"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    tensorrt_llm.build(tmp_path / "c", tmp_path / "e", Engine(max_batch_size=3), tmp_path / "cache")
    assert "--max_batch_size 3" in (tmp_path / "e/arguments").read_text()


def test_another_image_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refused, match="trtllm-build is not in this image"):
        tensorrt_llm.build(tmp_path, tmp_path / "e", Engine(), tmp_path / "cache")


def test_triton_batches_and_streams() -> None:
    parameters = tensorrt_llm.triton_parameters(Engine(max_batch_size=4))
    assert parameters["decoupled_mode"] == "true"
    assert parameters["batching_strategy"] == "inflight_fused_batching"
    assert parameters["triton_max_batch_size"] == "4"


def test_parts_are_built_side_by_side() -> None:
    command = tensorrt_llm.build_command(Path("/c"), Path("/e"), Engine(tensor_parallel_size=2), Path("/t"))
    assert command[command.index("--workers") + 1] == "2"


def test_what_the_cache_cannot_hold_waits_and_nothing_running_is_thrown_out() -> None:
    assert tensorrt_llm.triton_parameters(Engine())["batch_scheduler_policy"] == "guaranteed_no_evict"


def test_memory_plans_count_the_steps_that_the_servers_take() -> None:
    assert memory.CPU_BATCH_TOKENS == scheduler.PREFILL_TOKENS
    command = tensorrt_llm.build_command(Path("/c"), Path("/e"), Engine(), Path("/t"))
    assert command[command.index("--max_num_tokens") + 1] == str(memory.BATCH_TOKENS)
