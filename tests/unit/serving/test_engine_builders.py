"""What an engine's key says of version and hardware is held against the pod that builds or loads it."""

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anneal_api.modeldeployment import ModelDeploymentSpec
from anneal_api.profiles import AcceleratorProfile
from anneal_runtime.errors import Refused
from anneal_serving import builders, engine, gate, inspect_stage, quantize
from anneal_serving.triton import serve

from .conftest import World

STANDIN = Path(__file__).parents[2] / "standin"
A10 = AcceleratorProfile(name="a10-24g", memory_gib=22, compute_capability="8.6")


def spec(runtime: str) -> ModelDeploymentSpec:
    return ModelDeploymentSpec.model_validate({"model": {"uri": "file:///m"}, "engine": {"runtime": runtime}})


def pod(monkeypatch: pytest.MonkeyPatch, version: str | None, capability: str | None) -> None:
    def installed(name: str) -> str:
        assert name == "tensorrt_llm"
        if version is None:
            raise builders.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(builders, "metadata", SimpleNamespace(version=installed, **_errors()))
    monkeypatch.setattr(builders, "compute_capability", lambda: capability)


def _errors() -> dict[str, Any]:
    return {"PackageNotFoundError": builders.metadata.PackageNotFoundError}


@pytest.mark.parametrize("version", ["1.2.1", "1.2.1+cu131", "1.2.1.post1"])
def test_the_release_and_the_profiles_capability_pass(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    pod(monkeypatch, version, "8.6")
    builders.check_here(spec("tensorrt-llm-engine"), A10)


@pytest.mark.parametrize(
    ("version", "capability", "told"),
    [
        ("1.2.0", "8.6", "has 1.2.0 TensorRT-LLM, and engines are built and loaded by 1.2.1;"),
        ("1.2.10", "8.6", "has 1.2.10 TensorRT-LLM"),
        (None, "8.6", "has no TensorRT-LLM"),
        ("1.2.1", "8.0", "a10-24g says compute capability 8.6, this pod's accelerator has 8.0;"),
        ("1.2.1", None, "this pod's accelerator has no CUDA driver;"),
    ],
)
def test_what_differs_is_named(
    monkeypatch: pytest.MonkeyPatch, version: str | None, capability: str | None, told: str
) -> None:
    pod(monkeypatch, version, capability)
    with pytest.raises(Refused, match=told):
        builders.check_here(spec("tensorrt-llm-engine"), A10)


def test_the_torch_backend_is_of_a_version_and_of_no_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    pod(monkeypatch, "1.2.1", None)
    builders.check_here(spec("tensorrt-llm-pytorch"), A10)
    pod(monkeypatch, "1.3.0", None)
    with pytest.raises(Refused, match="has 1.3.0"):
        builders.check_here(spec("tensorrt-llm-pytorch"), A10)


def test_openvino_asks_for_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    pod(monkeypatch, None, None)
    builders.check_here(spec("openvino"), A10)


def test_no_stage_goes_on_in_the_wrong_pod(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither compiles, measures nor serves; the torch backend's engine is weights, which any image lays out."""
    limits = {"runtime": "tensorrt-llm-pytorch", "maxInputLength": 256, "maxSequenceLength": 512}
    run = world.run(quantization={"method": "none"}, engine=limits)
    run = run.model_copy(update={"inspection": inspect_stage.run(run)})
    quantize.run(run)
    compiled = {"spec": run.spec.model_copy(update={"engine": spec("tensorrt-llm-engine").engine})}
    with pytest.raises(Refused, match="has no TensorRT-LLM"):
        engine.run(run.model_copy(update=compiled))
    engine.run(run)
    for loads in (gate.run, lambda each: serve.write_repository(each, tmp_path)):
        with pytest.raises(Refused, match="has no TensorRT-LLM"):
            loads(run)
    assert not (tmp_path / "models").exists()


class Driver:
    """CUDA's driver of one accelerator of compute capability 9.0; every call returns `code`."""

    def __init__(self, code: int) -> None:
        self.cuInit = lambda flags: code
        self.cuDeviceGet = lambda device, ordinal: code
        self._code = code

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: ctypes.c_int) -> int:
        value._obj.value = {75: 9, 76: 0}[attribute]
        return self._code


def test_the_driver_tells_the_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builders.ctypes, "CDLL", lambda name: Driver(0))
    assert builders.compute_capability() == "9.0"
    monkeypatch.setattr(builders.ctypes, "CDLL", lambda name: Driver(100))
    assert builders.compute_capability() is None


def test_without_a_driver_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr(builders.ctypes, "CDLL", absent)
    assert builders.compute_capability() is None
