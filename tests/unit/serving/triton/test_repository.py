"""The model repository in Triton's own format, for all runtimes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from anneal_api.modeldeployment import Engine
from anneal_serving.tensorrt_llm import llm_arguments, triton_parameters
from anneal_serving.triton import repository, tensors

RECORDED = json.loads((Path(__file__).parents[1] / "golden/tensorrt_llm.json").read_text())


def written(root: Path, runtime: str) -> dict[str, Any]:
    """Write a repository and return every model's config as Triton parses it."""
    engine = Engine(runtime=runtime, max_batch_size=6, max_sequence_length=512, max_input_length=256)
    settings = {
        "openvino": {"KV_CACHE_PRECISION": "f16"},
        "tensorrt-llm-engine": triton_parameters(engine),
        "tensorrt-llm-pytorch": llm_arguments(engine, scoring=False),
    }[runtime]
    plan = repository.Plan(engine, Path("/cache/engine-artifact"), settings, [2, 0], ["/opt/x"], threads=3)
    repository.write(plan, root)
    configs = {path.parent.name: path.read_text() for path in root.glob("*/config.pbtxt")}
    return {name: text_format.Parse(text, model_config_pb2.ModelConfig()) for name, text in configs.items()}


@pytest.fixture(params=["openvino", "tensorrt-llm-engine", "tensorrt-llm-pytorch"])
def models(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    return written(tmp_path, request.param)


def test_the_models_of_the_repository(models: dict[str, Any]) -> None:
    common = {"preprocessing", "tensorrt_llm", "postprocessing", "ensemble"}
    on_cpu = "properties" in models["tensorrt_llm"].parameters
    assert set(models) == (common if on_cpu else {*common, "tensorrt_llm_bls"})
    assert all(name == config.name for name, config in models.items())
    runtime = "openvino" if on_cpu else "tensorrt-llm-engine"
    assert set(models) == set(repository.loaded(Engine(runtime=runtime)))


def test_bls_takes_and_returns_what_the_ensemble_does_as_a_stream(tmp_path: Path) -> None:
    models = written(tmp_path, "tensorrt-llm-engine")
    bls, ensemble = models["tensorrt_llm_bls"], models["ensemble"]
    assert bls.model_transaction_policy.decoupled
    assert list(bls.input) == list(ensemble.input)
    assert list(bls.output) == list(ensemble.output)
    assert bls.parameters["max_batch_size"].string_value == "6"
    code = (tmp_path / "tensorrt_llm_bls/1/model.py").read_text()
    assert "from anneal_serving.triton.bls import TritonPythonModel" in code


def test_all_runtimes_take_and_return_the_same_tensors(models: dict[str, Any]) -> None:
    engine = models["tensorrt_llm"]
    more = "properties" in engine.parameters
    inputs, outputs = (tensors.CPU_INPUTS, tensors.CPU_OUTPUTS) if more else (tensors.INPUTS, tensors.OUTPUTS)
    assert [found.name for found in engine.input] == [tensor.name for tensor in inputs]
    assert [found.name for found in engine.output] == [tensor.name for tensor in outputs]
    assert more == ("guided_decoding_guide" in {found.name for found in engine.input})
    optional = {found.name for found in engine.input if not found.optional}
    assert optional == {"input_ids", "input_lengths", "request_output_len"}
    assert engine.model_transaction_policy.decoupled


def test_the_ensemble_joins_tensors_that_exist(models: dict[str, Any]) -> None:
    known = {found.name for found in models["ensemble"].input}
    for step in models["ensemble"].ensemble_scheduling.step:
        model = models[step.model_name]
        assert set(step.input_map) <= {found.name for found in model.input}
        assert set(step.output_map) <= {found.name for found in model.output}
        assert set(step.input_map.values()) <= known
        known |= set(step.output_map.values())
    assert {found.name for found in models["ensemble"].output} <= known


def test_tensorrt_llm_streams_with_in_flight_batching(tmp_path: Path) -> None:
    engine = written(tmp_path, "tensorrt-llm-engine")["tensorrt_llm"]
    given = {key: value.string_value for key, value in engine.parameters.items()}
    assert (engine.backend, engine.max_batch_size) == ("tensorrtllm", 6)
    assert given["gpt_model_type"] == "inflight_fused_batching"
    assert given["gpt_model_path"] == "/cache/engine-artifact/engine"
    assert given["kv_cache_free_gpu_mem_fraction"] == "0.9"
    assert given["enable_chunked_context"] == given["enable_kv_cache_reuse"] == "true"
    inputs = {found.name: found for found in engine.input}
    assert inputs["input_ids"].allow_ragged_batch
    assert inputs["temperature"].HasField("reshape")
    assert not (tmp_path / "tensorrt_llm/1/model.py").exists()


def test_names_types_and_shapes_are_those_of_the_backends_template(tmp_path: Path) -> None:
    engine = written(tmp_path, "tensorrt-llm-engine")["tensorrt_llm"]
    assert set(engine.parameters) <= set(RECORDED["parameters"])
    for found in engine.input:
        kind, dims, ragged, reshaped = RECORDED["inputs"][found.name]
        assert model_config_pb2.DataType.Name(found.data_type) == f"TYPE_{kind}", found.name
        assert (list(found.dims), found.allow_ragged_batch) == (dims, ragged), found.name
        assert found.HasField("reshape") == reshaped, found.name
    for found in engine.output:
        kind, dims = RECORDED["outputs"][found.name]
        assert (model_config_pb2.DataType.Name(found.data_type), list(found.dims)) == (f"TYPE_{kind}", dims)


def test_the_llm_api_is_a_python_model_with_its_arguments(tmp_path: Path) -> None:
    engine = written(tmp_path, "tensorrt-llm-pytorch")["tensorrt_llm"]
    given = {key: value.string_value for key, value in engine.parameters.items()}
    assert (engine.backend, engine.max_batch_size, given["engine_dir"]) == (
        "python",
        1,
        "/cache/engine-artifact/engine",
    )
    assert json.loads(given["arguments"])["max_seq_len"] == 512
    code = (tmp_path / "tensorrt_llm/1/model.py").read_text()
    assert "from anneal_serving.triton.llmapi import TritonPythonModel" in code


def test_openvino_is_a_python_model_with_the_engines_properties(tmp_path: Path) -> None:
    engine = written(tmp_path, "openvino")["tensorrt_llm"]
    given = {key: value.string_value for key, value in engine.parameters.items()}
    assert engine.backend == "python"
    assert given["engine_dir"] == "/cache/engine-artifact"
    assert given["properties"] == '{"KV_CACHE_PRECISION": "f16", "INFERENCE_NUM_THREADS": "3"}'
    assert (given["max_batch_size"], given["max_sequence_length"]) == ("6", "512")


def test_the_stub_extends_its_path_before_it_imports(tmp_path: Path) -> None:
    written(tmp_path, "openvino")
    code = (tmp_path / "tensorrt_llm/1/model.py").read_text()
    compile(code, "model.py", "exec")
    assert code.index('sys.path[:0] = ["/opt/x"]') < code.index("from anneal_serving.triton.backend import")


def test_triton_warms_up_with_a_real_request(models: dict[str, Any], tmp_path: Path) -> None:
    sample = models["tensorrt_llm"].model_warmup[0]
    folder = tmp_path / "tensorrt_llm/warmup"
    values = {
        name: np.frombuffer((folder / found.input_data_file).read_bytes(), np.int32).tolist()
        for name, found in sample.inputs.items()
    }
    assert values == {"input_ids": [2], "input_lengths": [1], "request_output_len": [1], "end_id": [2]}


def test_stop_words_there_and_back() -> None:
    assert tensors.stop_words([5, 9]) == [[5, 9], [1, 2]]
    assert tensors.single_stops([[5, 9, 0], [1, 2, -1]]) == [5, 9]
    with pytest.raises(ValueError, match="one token"):
        tensors.single_stops([[5, 9], [2, -1]])


def test_only_an_engine_in_cpp_has_its_load_relayed(tmp_path: Path) -> None:
    found = written(tmp_path / "trt", "tensorrt-llm-engine")["preprocessing"].parameters
    assert found["metrics_url"].string_value == "http://127.0.0.1:8002/metrics"
    for runtime in ("openvino", "tensorrt-llm-pytorch"):
        assert "metrics_url" not in written(tmp_path / runtime, runtime)["preprocessing"].parameters
