"""What inspection refuses, and that it needs no runtime to do so."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from anneal_api.modeldeployment import Quantization
from anneal_api.profiles import AcceleratorProfile
from anneal_api.runs import DeploymentRun
from anneal_runtime.errors import Refused
from anneal_serving import builders, inspect_stage

from .conftest import World, publish_model


@pytest.fixture
def changed(world: World, model_folder: Path, tmp_path: Path):
    """Publish the model with some files changed (None removes one) and return a run config of it."""

    def change(**files: dict | None) -> DeploymentRun:
        source = tmp_path / "source"
        source.mkdir()
        for path in model_folder.iterdir():
            (source / path.name).write_bytes(path.read_bytes())
        for name, content in files.items():
            path = source / name
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_text(json.dumps(content))
        model = publish_model(f"file://{tmp_path}/store", source, "b" * 64)
        return World(f"file://{tmp_path}/store", model, source).run()

    return change


def config_of(folder: Path, **settings: object) -> dict:
    return json.loads((folder / "config.json").read_text()) | settings


def test_shape_and_keys_of_a_good_model(world: World) -> None:
    inspection = inspect_stage.run(world.run())
    assert inspection.model == world.model
    assert (inspection.shape.hidden, inspection.shape.kv_heads, inspection.shape.tied) == (128, 2, True)
    assert len({inspection.keys.quantize, inspection.keys.engine, inspection.keys.gate}) == 3


def test_keys_follow_what_changes_the_output(world: World) -> None:
    keys = inspect_stage.run(world.run()).keys
    rounded = inspect_stage.run(world.run(quantization={"method": "rtn", "groupSize": 32})).keys
    larger = inspect_stage.run(
        world.run(engine={"runtime": "openvino", "maxInputLength": 128, "maxSequenceLength": 512})
    ).keys
    assert rounded.quantize != keys.quantize
    assert larger.quantize == keys.quantize
    assert larger.engine != keys.engine


def test_the_store_defaults_to_the_models_own(world: World) -> None:
    config = world.run().model_copy(update={"store": ""})
    assert inspect_stage.store_of(config) == world.store
    assert inspect_stage.run(config) == inspect_stage.run(world.run())


def test_a_pinned_version_that_lies_elsewhere_is_refused(world: World) -> None:
    pinned = "sha256:" + "0" * 64
    config = world.run(model={"uri": world.model.uri, "version": pinned})
    with pytest.raises(Refused, match=r"spec.model.version: .* pinned is sha256:0000"):
        inspect_stage.run(config.model_copy(update={"model": config.model.model_copy(update={"digest": ""})}))


def test_nothing_published(world: World) -> None:
    config = world.run()
    model = config.model.model_copy(update={"uri": f"{world.store}/team/model/nothing"})
    with pytest.raises(Refused, match="holds no published model"):
        inspect_stage.run(config.model_copy(update={"model": model}))


def test_an_unknown_architecture(changed, model_folder: Path) -> None:
    with pytest.raises(Refused, match="architectures is GPT2LMHeadModel"):
        inspect_stage.run(
            changed(**{"config.json": config_of(model_folder, architectures=["GPT2LMHeadModel"])})
        )


def test_a_rotary_variant_that_is_not_built(changed, model_folder: Path) -> None:
    rope = {"rope_type": "yarn", "factor": 2.0}
    with pytest.raises(Refused, match="rope_type is yarn"):
        inspect_stage.run(changed(**{"config.json": config_of(model_folder, rope_parameters=rope)}))


def test_missing_shards(changed) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    with pytest.raises(Refused, match="lacks model-00001-of-00002.safetensors, model-00002"):
        inspect_stage.run(changed(**{"model.safetensors.index.json": index, "model.safetensors": None}))


def test_a_model_without_chat_json(changed) -> None:
    with pytest.raises(Refused, match=r"has no chat.json; serve a model that a FineTuneJob exported"):
        inspect_stage.run(changed(**{"chat.json": None}))


def test_awq_without_calibration_rows(changed) -> None:
    with pytest.raises(Refused, match="set spec.quantization.method to rtn"):
        inspect_stage.run(changed(**{"calibration.safetensors": None}))


def test_a_group_that_does_not_divide(changed, model_folder: Path) -> None:
    config = changed(**{"config.json": config_of(model_folder, intermediate_size=80)})
    with pytest.raises(Refused, match=r"groupSize: 32 does not divide the 80 inputs of mlp.proj"):
        inspect_stage.run(config)


def test_tensorrt_needs_a_capability_and_a_group_it_has(world: World) -> None:
    config = world.run(engine={"runtime": "tensorrt-llm-engine"}, quantization={"groupSize": 32})
    with pytest.raises(Refused, match="32 has no kernel in TensorRT-LLM; use 64 or 128"):
        inspect_stage.run(config)
    blind = AcceleratorProfile(name="cpu", memory_gib=8)
    with pytest.raises(Refused, match="profile cpu has no computeCapability"):
        inspect_stage.run(config.model_copy(update={"accelerator": blind}))


def test_full_precision_has_no_groups_to_divide(changed, model_folder: Path) -> None:
    config = changed(**{"config.json": config_of(model_folder, intermediate_size=80)})
    spec = config.spec.model_copy(update={"quantization": Quantization(method="none")})
    assert inspect_stage.run(config.model_copy(update={"spec": spec})).keys.quantize


@pytest.mark.parametrize("runtime", ["tensorrt-llm-engine", "tensorrt-llm-pytorch"])
def test_a_cache_of_eight_bits_that_the_gate_cannot_measure(world: World, runtime: str) -> None:
    config = world.run(engine={"runtime": runtime, "kvCacheType": "int8"}, quantization={"groupSize": 64})
    with pytest.raises(Refused, match=f"kvCacheType: int8 is built for openvino; of {runtime}"):
        inspect_stage.run(config)


def test_openvino_is_not_divided(world: World) -> None:
    engine = {"runtime": "openvino", "tensorParallelSize": 2}
    with pytest.raises(Refused, match="tensorParallelSize: 2, and openvino runs a replica on one CPU; use 1"):
        inspect_stage.run(world.run(engine=engine))


def test_inspection_loads_no_runtime() -> None:
    code = (
        "import sys, anneal_serving.inspect_stage;"
        "print(sorted({'torch', 'openvino', 'transformers'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_torch_backend_is_tied_to_no_capability(world: World) -> None:
    spec = world.run(engine={"runtime": "tensorrt-llm-pytorch"}, quantization={"groupSize": 64}).spec
    blind = AcceleratorProfile(name="cpu", memory_gib=8)
    assert builders.builder(spec, blind) == f"tensorrt-llm-{builders.TENSORRT_LLM}-pytorch"


def test_accelerators_that_do_not_divide_the_heads(world: World) -> None:
    with pytest.raises(Refused, match="tensorParallelSize: 4 does not divide the key heads of 2"):
        inspect_stage.run(world.run(engine={"runtime": "tensorrt-llm-engine", "tensorParallelSize": 4}))
