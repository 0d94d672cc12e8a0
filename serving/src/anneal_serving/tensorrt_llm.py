"""Engines for NVIDIA GPUs: trtllm-build's command line, what Triton is told, and logits for the gate.

Runs only inside the TensorRT-LLM image of `builders.TENSORRT_LLM`; nothing is imported from it before it is needed.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from anneal_api.memory import BATCH_TOKENS, KV_FRACTION
from anneal_api.modeldeployment import Engine
from anneal_runtime.errors import Refused
from anneal_serving.int4 import Array


def build_command(checkpoint: Path, target: Path, engine: Engine, cache: Path) -> list[str]:
    """Return the command that compiles `checkpoint` into `target`."""
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
        "input_timing_cache": cache / "timing.cache",
        "output_timing_cache": cache / "timing.cache",
    }
    if engine.tensor_parallel_size > 1:
        options["workers"] = engine.tensor_parallel_size
    pairs = [[f"--{name}", str(value)] for name, value in options.items()]
    # The gate compares logits of whole prompts.
    return ["trtllm-build", *(word for pair in pairs for word in pair), "--gather_context_logits"]


def build(checkpoint: Path, target: Path, engine: Engine, cache: Path) -> None:
    """Compile `checkpoint` into `target`.

    Raises:
        Refused: this is not the TensorRT-LLM image.
    """
    cache.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(build_command(checkpoint, target, engine, cache), check=True)
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


def logits(engine_folder: Path) -> Callable[[Array], Array]:
    """Return the function that gives the engine's logits [tokens, vocabulary] of a row of token ids."""
    import torch  # both are the image's
    from tensorrt_llm.runtime import ModelRunnerCpp  # type: ignore[import-not-found]

    runner: Any = ModelRunnerCpp.from_dir(str(engine_folder))

    def row_logits(row: Array) -> Array:
        ids = torch.from_numpy(row.astype(np.int32))
        answer = runner.generate([ids], max_new_tokens=1, end_id=-1, pad_id=0, return_dict=True)
        found: Array = answer["context_logits"][0].float().cpu().numpy()
        return found

    return row_logits
