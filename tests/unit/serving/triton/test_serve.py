"""How a replica is started."""

import sys
from pathlib import Path

import pytest

from anneal_api.modeldeployment import ModelDeploymentSpec
from anneal_runtime.errors import Refused
from anneal_serving.triton import serve


def test_command_line_loads_once_and_drains(tmp_path: Path) -> None:
    command = serve.arguments(tmp_path / "t", tmp_path, tmp_path / "b", spec("openvino"), (1, 2, 3))
    assert command[0] == str(tmp_path / "t/bin/tritonserver")
    assert {"--model-control-mode=explicit", "--load-model=tensorrt_llm", "--exit-timeout-secs=120"} <= set(
        command
    )
    assert {"--http-port=1", "--grpc-port=2", "--metrics-port=3"} <= set(command)
    assert "--load-model=tensorrt_llm_bls" not in command
    engine = serve.arguments(tmp_path, tmp_path, tmp_path, spec("tensorrt-llm-engine"), (1, 2, 3))
    assert {"--load-model=ensemble", "--load-model=tensorrt_llm_bls"} <= set(engine)


def spec(runtime: str) -> ModelDeploymentSpec:
    fields = {"model": {"uri": "file:///m"}, "engine": {"runtime": runtime}, "drainSeconds": 120}
    return ModelDeploymentSpec.model_validate(fields)


def test_ports_are_the_contracts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(serve.ENV_PORTS, raising=False)
    assert serve.ports() == (8000, 8001, 8002)


def test_a_missing_server_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(serve.ENV_TRITON, str(tmp_path))
    with pytest.raises(Refused, match=f"no bin/tritonserver in {tmp_path}; set ANNEAL_TRITON"):
        serve.find_triton()


def test_an_image_has_the_stub_in_place(tmp_path: Path) -> None:
    stub = tmp_path / "backends/python/triton_python_backend_stub"
    stub.parent.mkdir(parents=True)
    stub.touch()
    assert serve.backends(tmp_path, tmp_path / "work") == tmp_path / "backends"


def test_a_wheels_stub_is_put_beside_the_backend(tmp_path: Path) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    library = tmp_path / "backends/python/libtriton_python.so"
    stub = tmp_path / "python_backend_stubs" / version / "triton_python_backend_stub"
    for path in (library, stub):
        path.parent.mkdir(parents=True)
        path.touch()
    found = serve.backends(tmp_path, tmp_path / "work") / "python"
    assert {path.name for path in found.iterdir()} == {library.name, stub.name}


def test_the_stub_gets_packages_but_no_standard_library() -> None:
    paths = serve.package_paths()
    assert any(path.endswith("site-packages") for path in paths)
    assert any(path.endswith("serving/src") for path in paths)
    assert not any(path.endswith("lib-dynload") for path in paths)


@pytest.mark.parametrize(
    ("quota", "threads"), [("max 100000", 0), ("150000 100000\n", 2), ("50000 100000", 1)]
)
def test_threads_follow_the_containers_cpu_limit(quota: str, threads: int) -> None:
    assert serve.cpu_threads(quota) == threads
