"""The `serve` stage: a replica. Writes the model repository and runs tritonserver.

SIGTERM and the exit code are Triton's own, see `supervisor`; a replica of several accelerators is several of them, see `ranks`.
"""

import importlib.util
import math
import os
import shutil
import sys
import sysconfig
from pathlib import Path

from anneal_api.modeldeployment import ModelDeploymentSpec
from anneal_api.outcome import EXIT_CODES, Outcome
from anneal_api.runs import DeploymentRun
from anneal_runtime import artifacts, stage
from anneal_runtime.chat import ChatEncoder
from anneal_runtime.errors import Refused, StageError
from anneal_serving import builders, stages
from anneal_serving.triton import ranks, repository, supervisor

HTTP_PORT = 8000
GRPC_PORT = 8001
METRICS_PORT = 8002
ENV_TRITON = "ANNEAL_TRITON"
"""Folder of a Triton installation: bin/tritonserver and backends/."""
ENV_WORK = "ANNEAL_WORK"
"""Writable folder; /work in a pod."""
ENV_PORTS = "ANNEAL_TRITON_PORTS"
"""HTTP, gRPC and metrics ports, for several replicas on one machine."""
_IMAGE = Path("/opt/tritonserver")
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_KEEPALIVE_MS = 5000


def main() -> int:
    """Read the run, open the engine, write the repository, run tritonserver to its end."""
    try:
        run = stage.read_run(DeploymentRun)
        work = Path(os.environ.get(ENV_WORK, "/work"))
        triton = find_triton()
        write_repository(run, work)
        command = arguments(triton, work, backends(triton, work), run.spec, ports())
    except StageError as error:
        verdict = "Refused" if isinstance(error, Refused) else "Retry"
        outcome = Outcome(verdict=verdict, reason=error.reason, message=error.message[:2048])
        stage.report(outcome)
        return EXIT_CODES[verdict]
    environment = os.environ | {"LD_LIBRARY_PATH": library_path(triton)}
    size, leader = run.spec.engine.tensor_parallel_size, work / "leader.pid"
    if size > 1 and run.spec.engine.runtime == "tensorrt-llm-engine":
        command = ranks.command(size, command, leader)
    return supervisor.run(command, environment, leader)


def write_repository(run: DeploymentRun, work: Path) -> None:
    """Open the run's engine and write the model repository for it.

    Raises:
        Refused: the engine was built for another version or compute capability, or this pod has another.
    """
    folder, manifest = artifacts.open_artifact(stages.uri_of(run, "engine"), work / "cache")
    builders.check(manifest.metadata["builder"], run.spec, run.accelerator)
    builders.check_here(run.spec, run.accelerator)
    plan = repository.Plan(
        engine=run.spec.engine,
        folder=folder,
        settings=repository.settings_of(manifest.metadata),
        stop_ids=ChatEncoder.load(folder).eos_ids,
        paths=package_paths(),
        threads=cpu_threads(_CPU_QUOTA.read_text() if _CPU_QUOTA.exists() else "max"),
        metrics_port=ports()[2],
    )
    root = work / "models"
    shutil.rmtree(root, ignore_errors=True)
    repository.write(plan, root)


def arguments(
    triton: Path, work: Path, backend_folder: Path, spec: ModelDeploymentSpec, at: tuple[int, int, int]
) -> list[str]:
    """Return tritonserver's command line.

    Models are loaded once and never polled; running streams get spec.drainSeconds after SIGTERM; pings
    let a gateway notice a dead node within seconds.
    """
    http, grpc, metrics = at
    return [
        str(triton / "bin/tritonserver"),
        f"--model-repository={work / 'models'}",
        f"--backend-directory={backend_folder}",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in repository.loaded(spec.engine)),
        f"--exit-timeout-secs={spec.drain_seconds}",
        f"--http-port={http}",
        f"--grpc-port={grpc}",
        f"--metrics-port={metrics}",
        "--metrics-interval-ms=1000",
        "--allow-gpu-metrics=false",
        "--allow-cpu-metrics=false",
        "--log-format=ISO8601",
        f"--grpc-http2-min-recv-ping-interval-without-data={_KEEPALIVE_MS}",
        "--grpc-keepalive-permit-without-calls=1",
        "--grpc-http2-max-ping-strikes=0",
    ]


def ports() -> tuple[int, int, int]:
    """Return HTTP, gRPC and metrics ports."""
    text = os.environ.get(ENV_PORTS, f"{HTTP_PORT},{GRPC_PORT},{METRICS_PORT}")
    http, grpc, metrics = (int(part) for part in text.split(","))
    return http, grpc, metrics


def find_triton() -> Path:
    """Return the Triton installation: $ANNEAL_TRITON, the image's, or the one in the pytriton wheel.

    Raises:
        Refused: there is none.
    """
    named = os.environ.get(ENV_TRITON)
    wheel = importlib.util.find_spec("pytriton")
    folders = [Path(named)] if named else [_IMAGE]
    if not named and wheel is not None and wheel.origin is not None:
        folders.append(Path(wheel.origin).parent / "tritonserver")
    for folder in folders:
        if (folder / "bin/tritonserver").is_file():
            return folder.resolve()  # the libraries are found relative to the real place
    looked = ", ".join(map(str, folders))
    raise Refused("NoTriton", f"no bin/tritonserver in {looked}; set {ENV_TRITON} or install nvidia-pytriton")


def backends(triton: Path, work: Path) -> Path:
    """Return a backend folder whose Python backend has the stub of this Python.

    An image has it in place. The wheel keeps the stubs of all Pythons apart, so a folder is put together.
    """
    found = triton / "backends"
    stub = "triton_python_backend_stub"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    packed = triton / "python_backend_stubs" / version / stub
    if (found / "python" / stub).is_file() or not packed.is_file():
        return found
    target = work / "backends/python"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in [*(found / "python").iterdir(), packed]:
        (target / path.name).symlink_to(path)
    return target.parent


def library_path(triton: Path) -> str:
    """Return LD_LIBRARY_PATH with the libraries that came with the server; moved files lose their RPATH."""
    own = [triton / "lib", triton.parent.parent / "nvidia_pytriton.libs"]
    before = [os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ]
    return ":".join([*(str(path) for path in own if path.is_dir()), *before])


def package_paths() -> list[str]:
    """Return sys.path without the standard library: the stub brings its own."""
    standard = Path(sysconfig.get_paths()["stdlib"])
    return [path for path in sys.path if path and _is_packages(Path(path), standard)]


def _is_packages(path: Path, standard: Path) -> bool:
    if not path.is_dir():
        return False
    return not path.is_relative_to(standard) or bool({"site-packages", "dist-packages"} & set(path.parts))


def cpu_threads(quota: str) -> int:
    """Return the CPUs that cgroup v2's cpu.max allows, 0 when it sets no limit; OpenVINO sees all of the node's."""
    limit, _, period = quota.strip().partition(" ")
    return 0 if limit == "max" else max(1, math.ceil(int(limit) / int(period)))
