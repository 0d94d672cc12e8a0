"""Engines for NVIDIA GPUs: trtllm-build's command line, what Triton and the LLM API are told, and logits for the gate.

Runs only inside the TensorRT-LLM image of `builders.TENSORRT_LLM`; nothing is imported from it before it is needed.
"""

import subprocess
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from anneal_api.memory import BATCH_TOKENS, KV_FRACTION
from anneal_api.modeldeployment import Engine
from anneal_runtime.errors import Refused
from anneal_serving.int4 import Array


def build_command(checkpoint: Path, target: Path, engine: Engine, timings: Path) -> list[str]:
    """Return the command that compiles `checkpoint` into `target`; `timings` is the file of kernels' times."""
    options: dict[str, object] = {
        "checkpoint_dir": checkpoint,
        "output_dir": target,
        "gemm_plugin": "auto",
        "max_batch_size": engine.max_batch_size,
        "max_input_len": engine.max_input_length,
        "max_seq_len": engine.max_sequence_length,
        "max_num_tokens": BATCH_TOKENS,
        "use_paged_context_fmha": "enable",
        "kv_cache_type": "paged",
        "input_timing_cache": timings,
        "output_timing_cache": timings,
    }
    if engine.tensor_parallel_size > 1:
        options["workers"] = engine.tensor_parallel_size
    pairs = [[f"--{name}", str(value)] for name, value in options.items()]
    # The gate compares logits of whole prompts.
    return ["trtllm-build", *(word for pair in pairs for word in pair), "--gather_context_logits"]


def build(checkpoint: Path, target: Path, engine: Engine, timings: Path) -> None:
    """Compile `checkpoint` into `target`.

    Raises:
        Refused: this is not the TensorRT-LLM image.
    """
    try:
        subprocess.run(build_command(checkpoint, target, engine, timings), check=True)
    except FileNotFoundError:
        raise Refused(
            "NoBuilder",
            "trtllm-build is not in this image; spec.engine.runtime tensorrt-llm-engine needs the operator's "
            "images.tritonTrtllm, or use openvino",
        ) from None


def triton_parameters(engine: Engine) -> dict[str, str]:
    """Return the parameters of the tensorrtllm backend's config.pbtxt; engine_dir is known where it is served."""
    return {
        "triton_max_batch_size": str(engine.max_batch_size),
        "decoupled_mode": "true",
        "batching_strategy": "inflight_fused_batching",
        # A request begins when the cache has room for all it may write, and waits until then: the queue of the
        # memory plan. The other policy starts more of them and throws running ones out.
        "batch_scheduler_policy": "guaranteed_no_evict",
        "max_queue_delay_microseconds": "0",
        "max_queue_size": "0",
        "kv_cache_free_gpu_mem_fraction": str(KV_FRACTION),
        "enable_chunked_context": "true",
        "enable_kv_cache_reuse": "true",
    }


def llm_arguments(engine: Engine, *, scoring: bool) -> dict[str, Any]:
    """Return what the LLM API's PyTorch backend is opened with, beside its model.

    Args:
        scoring: for the gate, which needs logits of whole prompts: none of them from blocks that are reused, none in parts.
    """
    tokens = max(BATCH_TOKENS, engine.max_input_length) if scoring else BATCH_TOKENS
    return {
        "backend": "pytorch",
        "skip_tokenizer_init": True,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "max_batch_size": engine.max_batch_size,
        "max_input_len": engine.max_input_length,
        "max_seq_len": engine.max_sequence_length,
        "max_num_tokens": tokens,
        "enable_chunked_prefill": not scoring,
        "enable_iter_perf_stats": not scoring,
        "kv_cache_config": {"free_gpu_memory_fraction": KV_FRACTION, "enable_block_reuse": not scoring},
        # As the engine's: what the cache cannot hold waits, and nothing that runs is thrown out.
        "scheduler_config": {"capacity_scheduler_policy": "GUARANTEED_NO_EVICT"},
    }


class Library:
    """An engine in TensorRT-LLM's LLM API: opened when it is first asked, and once, as weights and cache fill the accelerator.

    Args:
        folder: a compiled engine, or weights in Hugging Face layout.
        engine: what it was made for.
    """

    def __init__(self, folder: Path, engine: Engine) -> None:
        self._folder = folder
        self._engine = engine

    def logits(self, row: Array) -> Array:
        """Return the logits [tokens, vocabulary] of a row, of its first maxInputLength token ids at most."""
        from tensorrt_llm import SamplingParams  # type: ignore[import-not-found]  # the image's

        asked = SamplingParams(
            max_tokens=1, end_id=-1, pad_id=0, detokenize=False, return_context_logits=True
        )
        answer = self._llm.generate(row[: self._engine.max_input_length].tolist(), asked)
        found: Array = answer.context_logits.float().cpu().numpy()
        return found

    def continued(self, ends: list[int], prompts: Sequence[tuple[Sequence[int], int]]) -> list[list[int]]:
        """Return what the engine goes on with, greedily, after prompts of ids and a number of tokens."""
        from tensorrt_llm import SamplingParams

        asked = [
            SamplingParams(
                max_tokens=tokens,
                temperature=0.0,
                end_id=ends[0],
                pad_id=ends[0],
                stop_token_ids=ends,
                detokenize=False,
            )
            for _, tokens in prompts
        ]
        answers = self._llm.generate([list(ids) for ids, _ in prompts], asked)
        return [list(answer.outputs[0].token_ids) for answer in answers]

    @cached_property
    def _llm(self) -> Any:
        # Both classes start a worker for each accelerator.
        if self._engine.runtime == "tensorrt-llm-pytorch":
            from tensorrt_llm import LLM

            return LLM(model=str(self._folder), **llm_arguments(self._engine, scoring=True))
        from tensorrt_llm._tensorrt_engine import LLM as Compiled  # type: ignore[import-not-found]

        cache = {"free_gpu_memory_fraction": KV_FRACTION, "enable_block_reuse": False}
        return Compiled(model=str(self._folder), skip_tokenizer_init=True, kv_cache_config=cache)
