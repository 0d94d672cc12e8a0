"""The model repository Triton is started with: preprocessing, tensorrt_llm, postprocessing, and their ensemble; beside an engine of
TensorRT-LLM also tensorrt_llm_bls.

The runtimes differ in one model's backend. Formats: Triton's model_config.proto; names and parameters
of `inflight_batcher_llm` in TensorRT-LLM 1.2.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anneal_api.modeldeployment import Engine
from anneal_serving.engine import ENGINE_FOLDER
from anneal_serving.triton import tensors
from anneal_serving.triton.pbtxt import Symbol, parameters, render
from anneal_serving.triton.tensors import Tensor

COMMON = (tensors.MODEL, tensors.PREPROCESSING, tensors.POSTPROCESSING, tensors.ENSEMBLE)

_STUB = """\
import locale
import sys

# The stub leaves the C locale in place, in which Python reads text as ASCII.
locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
sys.path[:0] = {paths}
from {module} import {name} as TritonPythonModel  # noqa: E402, F401
"""


@dataclass(frozen=True)
class Plan:
    """What the repository is written for.

    Attributes:
        engine: limits and runtime.
        folder: the opened engine artifact: engine, tokenizer.json and chat.json.
        settings: what the engine stage recorded: OpenVINO's properties, TensorRT-LLM's Triton parameters or the LLM
            API's arguments.
        stop_ids: ids that end an answer.
        paths: where the stub's Python finds packages; it ignores PYTHONPATH.
        threads: CPU threads of the engine, 0 for all.
        metrics_port: where the server publishes its metrics.
    """

    engine: Engine
    folder: Path
    settings: dict[str, Any]
    stop_ids: list[int]
    paths: list[str]
    threads: int = 0
    metrics_port: int = 8002


def write(plan: Plan, root: Path) -> None:
    """Write the models into `root`."""
    engine, module = _ENGINES[plan.engine.runtime]
    _model(root, engine(plan), _stub(plan, module, "TritonPythonModel") if module else None)
    _warm_up(root / tensors.MODEL / "warmup", plan)
    _model(root, preprocessing(plan), _stub(plan, "text", "Preprocessing"))
    _model(root, postprocessing(plan), _stub(plan, "text", "Postprocessing"))
    _model(root, ensemble(plan), None)
    if tensors.BLS in loaded(plan.engine):
        _model(root, bls(plan), _stub(plan, "bls", "TritonPythonModel"))


def loaded(engine: Engine) -> tuple[str, ...]:
    """Return the models that a server of this engine loads; on a CPU another process of Python would be at its cost."""
    return COMMON if engine.runtime == "openvino" else (*COMMON, tensors.BLS)


def _model(root: Path, config: dict[str, Any], code: str | None) -> None:
    version = root / config["name"] / "1"
    version.mkdir(parents=True, exist_ok=True)
    (version.parent / "config.pbtxt").write_text(render(config))
    if code is not None:
        (version / "model.py").write_text(code)


def _stub(plan: Plan, module: str, name: str) -> str:
    return _STUB.format(paths=json.dumps(plan.paths), module=f"anneal_serving.triton.{module}", name=name)


def settings_of(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the runtime's settings out of an engine artifact's metadata."""
    return dict(metadata.get("properties") or metadata.get("triton") or metadata.get("llm") or {})


def openvino_model(plan: Plan) -> dict[str, Any]:
    """Return the config of `tensorrt_llm` on a CPU: one request a call, batched by its own scheduler."""
    values = _python_values(plan, plan.folder) | {"properties": json.dumps(_properties(plan))}
    return _engine_model(plan, "python", 1) | {"parameters": parameters(values)}


def llm_model(plan: Plan) -> dict[str, Any]:
    """Return the config of `tensorrt_llm` on the LLM API: as OpenVINO's, batched by the engine's own scheduler."""
    values = _python_values(plan, plan.folder / ENGINE_FOLDER) | {"arguments": json.dumps(plan.settings)}
    return _engine_model(plan, "python", 1) | {"parameters": parameters(values)}


def _python_values(plan: Plan, folder: Path) -> dict[str, str]:
    return {
        "engine_dir": str(folder),
        "max_batch_size": str(plan.engine.max_batch_size),
        "max_sequence_length": str(plan.engine.max_sequence_length),
        "stop_ids": json.dumps(plan.stop_ids),
    }


def _properties(plan: Plan) -> dict[str, str]:
    threads = {"INFERENCE_NUM_THREADS": str(plan.threads)} if plan.threads else {}
    return plan.settings | threads


_PASSED = (
    "batch_scheduler_policy",
    "kv_cache_free_gpu_mem_fraction",
    "enable_chunked_context",
    "enable_kv_cache_reuse",
)


def tensorrt_llm_model(plan: Plan) -> dict[str, Any]:
    """Return the config of `tensorrt_llm` on the tensorrtllm backend, with in-flight batching."""
    slots = plan.engine.max_batch_size
    given = plan.settings
    batching = {
        "preferred_batch_size": slots,
        "max_queue_delay_microseconds": int(given["max_queue_delay_microseconds"]),
        "default_queue_policy": {"max_queue_size": int(given["max_queue_size"])},
    }
    values = {
        "max_beam_width": "1",
        "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
        "gpt_model_type": given["batching_strategy"],
        "gpt_model_path": str(plan.folder / ENGINE_FOLDER),
        **{name: given[name] for name in _PASSED},
        "exclude_input_in_output": "true",
        "cancellation_check_period_ms": "100",
        "stats_check_period_ms": "100",
        "executor_worker_path": "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker",
        "tokenizer_dir": str(plan.folder),
    }
    config = _engine_model(plan, "tensorrtllm", slots)
    return config | {"dynamic_batching": batching, "parameters": parameters(values)}


_ENGINES: dict[str, tuple[Callable[[Plan], dict[str, Any]], str]] = {
    "openvino": (openvino_model, "backend"),
    "tensorrt-llm-engine": (tensorrt_llm_model, ""),
    "tensorrt-llm-pytorch": (llm_model, "llmapi"),
}
"""Config of the engine's model, and the module of its Python code where it has any."""


def _engine_model(plan: Plan, backend: str, batch: int) -> dict[str, Any]:
    ragged = backend == "tensorrtllm"
    more = plan.engine.runtime == "openvino"
    inputs = tensors.CPU_INPUTS if more else tensors.INPUTS
    outputs = tensors.CPU_OUTPUTS if more else tensors.OUTPUTS
    return {
        "name": tensors.MODEL,
        "backend": backend,
        "max_batch_size": batch,
        "model_transaction_policy": {"decoupled": True},
        "input": [_input(tensor, ragged) for tensor in inputs],
        "output": [_tensor(tensor) for tensor in outputs],
        "instance_group": {"count": 1, "kind": Symbol("KIND_CPU")},
        "model_warmup": _warm_up_sample(),
    }


def preprocessing(plan: Plan) -> dict[str, Any]:
    """Return the config of text to ids."""
    inputs = [Tensor("QUERY", "STRING"), Tensor("REQUEST_OUTPUT_LEN", "INT32")]
    outputs = [
        Tensor("INPUT_ID", "INT32", (-1,)),
        Tensor("REQUEST_INPUT_LEN", "INT32"),
        Tensor("REQUEST_OUTPUT_LEN", "INT32"),
        Tensor("STOP_WORDS_IDS", "INT32", (2, -1)),
        Tensor("OUT_END_ID", "INT32"),
        Tensor("OUT_PAD_ID", "INT32"),
    ]
    relay = {"metrics_url": f"http://127.0.0.1:{plan.metrics_port}/metrics"}
    extra = relay if plan.engine.runtime == "tensorrt-llm-engine" else {}
    return _text_model(plan, tensors.PREPROCESSING, inputs, outputs, extra)


def postprocessing(plan: Plan) -> dict[str, Any]:
    """Return the config of ids to text."""
    inputs = [Tensor("TOKENS_BATCH", "INT32", (-1, -1)), Tensor("SEQUENCE_LENGTH", "INT32", (-1,))]
    return _text_model(plan, tensors.POSTPROCESSING, inputs, [Tensor("OUTPUT", "STRING", (-1,))], {})


def _text_model(
    plan: Plan, name: str, inputs: list[Tensor], outputs: list[Tensor], extra: dict[str, str]
) -> dict[str, Any]:
    return {
        "name": name,
        "backend": "python",
        "max_batch_size": _batch(plan),
        "input": [_tensor(tensor) for tensor in inputs],
        "output": [_tensor(tensor) for tensor in outputs],
        "instance_group": {"count": 1, "kind": Symbol("KIND_CPU")},
        "parameters": parameters({"tokenizer_dir": str(plan.folder)} | extra),
    }


_ENSEMBLE_INPUTS = {
    "text_input": Tensor("text_input", "STRING", required=True),
    "max_tokens": Tensor("max_tokens", "INT32", required=True),
    "temperature": Tensor("temperature", "FP32"),
    "top_k": Tensor("top_k", "INT32"),
    "top_p": Tensor("top_p", "FP32"),
    "seed": Tensor("seed", "UINT64"),
    "stream": Tensor("stream", "BOOL"),
}


def ensemble(plan: Plan) -> dict[str, Any]:
    """Return the config of the three models in a row: text in, text out."""
    ids = {
        "input_ids": "_INPUT_ID",
        "input_lengths": "_REQUEST_INPUT_LEN",
        "request_output_len": "_REQUEST_OUTPUT_LEN",
        "stop_words_list": "_STOP_WORDS_IDS",
        "end_id": "_END_ID",
        "pad_id": "_PAD_ID",
        "temperature": "temperature",
        "runtime_top_k": "top_k",
        "runtime_top_p": "top_p",
        "seed": "seed",
        "streaming": "stream",
    }
    encoded = {
        "INPUT_ID": "_INPUT_ID",
        "REQUEST_INPUT_LEN": "_REQUEST_INPUT_LEN",
        "REQUEST_OUTPUT_LEN": "_REQUEST_OUTPUT_LEN",
        "STOP_WORDS_IDS": "_STOP_WORDS_IDS",
        "OUT_END_ID": "_END_ID",
        "OUT_PAD_ID": "_PAD_ID",
    }
    generated = {"output_ids": "_TOKENS_BATCH", "sequence_length": "_SEQUENCE_LENGTH"}
    decoded = {"TOKENS_BATCH": "_TOKENS_BATCH", "SEQUENCE_LENGTH": "_SEQUENCE_LENGTH"}
    steps = [
        _step(tensors.PREPROCESSING, {"QUERY": "text_input", "REQUEST_OUTPUT_LEN": "max_tokens"}, encoded),
        _step(tensors.MODEL, ids, generated),
        _step(tensors.POSTPROCESSING, decoded, {"OUTPUT": "text_output"}),
    ]
    return {
        "name": tensors.ENSEMBLE,
        "platform": "ensemble",
        "max_batch_size": _batch(plan),
        "input": [_input(tensor, False) for tensor in _ENSEMBLE_INPUTS.values()],
        "output": [_tensor(Tensor("text_output", "STRING", (-1,)))],
        "ensemble_scheduling": {"step": steps},
    }


def bls(plan: Plan) -> dict[str, Any]:
    """Return the config of the model that calls the others: a request a call, as many at once as the engine has slots."""
    values = {"tokenizer_dir": str(plan.folder), "max_batch_size": str(plan.engine.max_batch_size)}
    return {
        "name": tensors.BLS,
        "backend": "python",
        "max_batch_size": 1,
        "model_transaction_policy": {"decoupled": True},
        "input": [_input(tensor, False) for tensor in _ENSEMBLE_INPUTS.values()],
        "output": [_tensor(Tensor("text_output", "STRING", (-1,)))],
        "instance_group": {"count": 1, "kind": Symbol("KIND_CPU")},
        "parameters": parameters(values),
    }


def _batch(plan: Plan) -> int:
    return plan.engine.max_batch_size if plan.engine.runtime == "tensorrt-llm-engine" else 1


def _step(model: str, inputs: dict[str, str], outputs: dict[str, str]) -> dict[str, Any]:
    return {
        "model_name": model,
        "model_version": -1,
        "input_map": [{"key": key, "value": value} for key, value in inputs.items()],
        "output_map": [{"key": key, "value": value} for key, value in outputs.items()],
    }


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "data_type": Symbol(f"TYPE_{tensor.kind}"), "dims": list(tensor.dims)}


def _input(tensor: Tensor, ragged: bool) -> dict[str, Any]:
    config = _tensor(tensor)
    if not tensor.required:
        config["optional"] = True
    if ragged and -1 in tensor.dims:
        config["allow_ragged_batch"] = True
    if ragged and tensor.dims == (1,):
        # The backend takes scalars: the batch dimension is all it sees.
        config["reshape"] = {"shape": []}
    return config


_WARM_UP = ("input_ids", "input_lengths", "request_output_len", "end_id")


def _warm_up_sample() -> dict[str, Any]:
    """A request Triton itself sends before it calls the model ready; its tensors are files beside the model."""
    inputs = [
        {
            "key": name,
            "value": {
                "data_type": Symbol("TYPE_INT32"),
                "dims": 1,
                "input_data_file": name,
            },
        }
        for name in _WARM_UP
    ]
    return {"name": "generate", "batch_size": 1, "inputs": inputs}


def _warm_up(folder: Path, plan: Plan) -> None:
    folder.mkdir(exist_ok=True)
    values = {"input_ids": plan.stop_ids[0], "input_lengths": 1, "request_output_len": 1}
    for name in _WARM_UP:
        value = values.get(name, plan.stop_ids[0])
        (folder / name).write_bytes(np.array([value], np.int32).tobytes())
