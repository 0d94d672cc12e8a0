"""The engine stage: the artifact is compiled for the runtime that serves it."""

import json
import shutil
from pathlib import Path
from typing import Any

from anneal_api import memory
from anneal_api.modeldeployment import Engine
from anneal_api.outcome import PublishResult
from anneal_api.runs import DeploymentRun
from anneal_runtime import artifacts, stage
from anneal_serving import builders, shards, stages, tensorrt_llm, timing_cache, unified
from anneal_serving.checkpoint import Checkpoint

COPIED = ("tokenizer.json", "chat.json")
OPENVINO_PROPERTIES = {
    # Not bfloat16 where the CPU has it, nor eight-bit activations: what the gate measured is what is served.
    "INFERENCE_PRECISION_HINT": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
}
KV_PRECISIONS = {"auto": "f16", "fp16": "f16", "int8": "u8"}
"""What the engine is told, by spec.engine.kvCacheType. OpenVINO's own default is eight bits."""
ENGINE_FOLDER = "engine"
"""Where what TensorRT-LLM loads lies in the artifact."""


def main() -> int:
    """Run the stage as a pod does."""
    return stage.run_stage(run, DeploymentRun)


def run(config: DeploymentRun) -> PublishResult:
    """Compile this version's checkpoint and publish the engine."""
    if (known := stages.published(config, "engine")) is not None:
        return known
    uri = stages.uri_of(config, "quantize")
    source, manifest = artifacts.open_artifact(uri, stages.CACHE)
    with stages.publish(config, "engine", {"quantized": manifest.digest}) as publication:
        for name in COPIED:
            shutil.copyfile(source / name, publication.folder / name)
        publication.metadata.update(_common(config, source))
        compiler = _COMPILERS[config.spec.engine.runtime]
        publication.metadata.update(compiler(config, source, publication.folder))
    return PublishResult(artifact=publication.published)


def _common(config: DeploymentRun, source: Path) -> dict[str, Any]:
    engine = config.spec.engine
    return {
        "runtime": engine.runtime,
        "builder": builders.builder(config.spec, config.accelerator),
        "maxBatchSize": engine.max_batch_size,
        "maxInputLength": engine.max_input_length,
        "maxSequenceLength": engine.max_sequence_length,
        "eosIds": _eos_ids(source),
        "kvBytesPerToken": memory.cache_bytes(
            stages.inspected(config).shape, int8=engine.kv_cache_type == "int8"
        ),
    }


def _eos_ids(folder: Path) -> list[int]:
    ids: list[int] = json.loads((folder / "chat.json").read_text())["eosIds"]
    return ids


def _openvino(config: DeploymentRun, source: Path, folder: Path) -> dict[str, Any]:
    from anneal_serving import openvino_ir  # only in images that have OpenVINO

    openvino_ir.write(Checkpoint(source), folder)
    # GenAI reads the ids that end an answer from here; without a tokenizer model it knows none.
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": _eos_ids(source)}))
    return {"properties": openvino_properties(config.spec.engine)}


def openvino_properties(engine: Engine) -> dict[str, str]:
    """Return what OpenVINO is opened with, by the gate and by the server."""
    return OPENVINO_PROPERTIES | {"KV_CACHE_PRECISION": KV_PRECISIONS[engine.kv_cache_type]}


def _tensorrt_llm(config: DeploymentRun, source: Path, folder: Path) -> dict[str, Any]:
    engine = config.spec.engine
    builders.check_here(config.spec, config.accelerator)
    if engine.tensor_parallel_size > 1:
        whole, source = source, stages.CACHE / "shards"
        shards.write(Checkpoint(whole), source, engine.tensor_parallel_size)
    timings = stages.CACHE / "tensorrt" / "timing.cache"
    where = timing_cache.uri_of(config, builders.builder(config.spec, config.accelerator))
    with timing_cache.kept(where, timings):
        tensorrt_llm.build(source, folder / ENGINE_FOLDER, engine, timings)
    return {"triton": tensorrt_llm.triton_parameters(engine)}


def _pytorch(config: DeploymentRun, source: Path, folder: Path) -> dict[str, Any]:
    (folder / ENGINE_FOLDER).mkdir()
    unified.write(Checkpoint(source), folder / ENGINE_FOLDER)
    return {"llm": tensorrt_llm.llm_arguments(config.spec.engine, scoring=False)}


_COMPILERS = {
    "openvino": _openvino,
    "tensorrt-llm-engine": _tensorrt_llm,
    "tensorrt-llm-pytorch": _pytorch,
}
