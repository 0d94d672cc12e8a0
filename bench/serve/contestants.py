"""Who serves the same prompts: processes with a driver each, all up at once and idle but for the one that is asked."""

import contextlib
import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import deployed
import httpx
import psutil
import smollm2
from safetensors import safe_open

from anneal_api.base import wire
from anneal_api.runs import DeploymentRun, GatewayConfig, GatewayVersion
from anneal_runtime import artifacts
from anneal_serving import stages
from anneal_serving.openvino_ir import MODEL
from serve.measure import Answer, Job, parse

ROOT = Path(__file__).parents[2]
PEERS = ROOT / ".venv-peers-serve" / "bin"
SLOTS = 8
LIMITS = {"maxBatchSize": SLOTS, "maxInputLength": 1024, "maxSequenceLength": 1536}
READY_SECONDS = 120.0
GATEWAY, TRITON, IN_PROCESS = "gateway", "Triton", "OpenVINO GenAI"
SAME_BITS = "llama.cpp Q4_0"
"""With our float16 table, so of as many bits as ours."""


@dataclass
class Contestant:
    """An engine behind its driver; `servers` do the work, so theirs are the CPU time and the memory that count."""

    driver: subprocess.Popen[str]
    servers: list[subprocess.Popen[str]]
    bits: float
    """Bits a weight of the model's file."""
    lines: int = field(default=0)

    def run(self, job: Job) -> list[Answer]:
        """Return the answers to a job."""
        assert self.driver.stdin is not None
        assert self.driver.stdout is not None
        print(json.dumps(asdict(job)), file=self.driver.stdin, flush=True)
        line = self.driver.stdout.readline()
        if not line:
            raise SystemExit(f"{self.driver.args!r} ended")
        return parse(line)

    @property
    def cpu(self) -> list[float]:
        """CPU seconds so far of each server and all below it."""
        return [sum(cpu_of(each) for each in family(server)) for server in self.servers]

    @property
    def memory(self) -> float:
        """Bytes now of the servers; what processes share counts once."""
        return float(sum(each.memory_full_info().pss for server in self.servers for each in family(server)))


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return a process and all below it."""
    first = psutil.Process(process.pid)
    return [first, *first.children(recursive=True)]


def cpu_of(process: psutil.Process) -> float:
    """Return CPU seconds, in user mode and in the kernel."""
    times = process.cpu_times()
    return float(times.user + times.system)


@contextlib.contextmanager
def all_of(model: str, folder: Path) -> Iterator[dict[str, Contestant]]:
    """Start everything on the model's INT4 artifact, made if there is none yet."""
    run = deployed.planned(model, "awq", f"file://{smollm2.CACHE}/store", LIMITS)
    engine, weights = deployed.compiled(run), parameters(model)
    with contextlib.ExitStack() as stack:
        http, grpc, metrics, port, other = free_ports(5)
        url, ours = f"http://127.0.0.1:{port}", bits((engine / MODEL).with_suffix(".bin"), weights)
        triton = stack.enter_context(replica(run, folder, (http, grpc, metrics)))
        front = stack.enter_context(gateway(run, folder, grpc, port))
        load, name = [sys.executable, "-m", "serve.load"], run.name
        inside = [
            sys.executable,
            "-m",
            "serve.in_process",
            str(engine),
            str(SLOTS),
            str(LIMITS["maxSequenceLength"]),
        ]
        process = stack.enter_context(driver(inside))
        made = {
            GATEWAY: Contestant(
                stack.enter_context(driver([*load, url, "openai", name, "{}"])), [front, triton], ours
            ),
            TRITON: Contestant(
                stack.enter_context(driver([*load, f"http://127.0.0.1:{http}", "triton"])), [triton], ours
            ),
            IN_PROCESS: Contestant(process, [process], ours),
        }
        file = same_bits(folder)
        peer = stack.enter_context(llama(file, other, folder))
        extra = json.dumps({"ignore_eos": True, "cache_prompt": False})
        asker = stack.enter_context(driver([*load, f"http://127.0.0.1:{other}", "openai", "any", extra]))
        made[SAME_BITS] = Contestant(asker, [peer], bits(file, weights))
        yield made


def parameters(model: str) -> int:
    """Return how many weights a model has."""
    total = 0
    for path in Path(model.removeprefix("file://")).glob("model*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total


def bits(file: Path, weights: int) -> float:
    """Return bits a weight of a model's file."""
    return 8 * file.stat().st_size / weights


def replica(
    run: DeploymentRun, work: Path, ports: tuple[int, int, int]
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """Start a replica as its pod does."""
    (work / "run.json").write_text(json.dumps(wire(run)))
    environment = {
        "ANNEAL_WORK": str(work),
        "ANNEAL_RUN": str(work / "run.json"),
        "ANNEAL_TRITON_PORTS": ",".join(map(str, ports)),
        "ANNEAL_TERMINATION_LOG": str(work / "termination"),
    }
    command = [sys.executable, "-m", "anneal_serving", "serve"]
    return server(command, work / "triton.log", f"http://127.0.0.1:{ports[0]}/v2/health/ready", environment)


def gateway(
    run: DeploymentRun, work: Path, replica_port: int, port: int
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """Start a gateway in front of the replica, as its pod does."""
    limits = run.spec.engine
    reference = artifacts.reference(stages.uri_of(run, "engine"))
    assert reference is not None
    version = GatewayVersion(
        name="a",
        weight=100,
        service="replicas",
        engine=reference,
        max_batch_size=limits.max_batch_size,
        max_input_length=limits.max_input_length,
        max_sequence_length=limits.max_sequence_length,
    )
    config = GatewayConfig(
        model=run.name,
        namespace=run.namespace,
        versions=[version],
        max_queue=256,
        request_timeout_seconds=600,
    )
    (work / "gateway.json").write_text(json.dumps(wire(config)))
    environment = {
        "ANNEAL_WORK": str(work),
        "ANNEAL_GATEWAY_CONFIG": str(work / "gateway.json"),
        "ANNEAL_GATEWAY_PORT": str(port),
        "ANNEAL_REPLICAS": f"127.0.0.1:{replica_port}",
    }
    command = [sys.executable, "-m", "anneal_serving", "gateway"]
    return server(command, work / "gateway.log", f"http://127.0.0.1:{port}/readyz", environment)


def llama(file: Path, port: int, work: Path) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """Start llama.cpp's server with as many slots, each with room for as long a sequence, and as many threads."""
    room = SLOTS * LIMITS["maxSequenceLength"]
    options = {"model": file, "port": port, "parallel": SLOTS, "ctx-size": room, "threads": os.cpu_count()}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [str(PEERS / "llama-server"), *words]
    return server(command, work / f"llama-{port}.log", f"http://127.0.0.1:{port}/health", {})


def same_bits(folder: Path) -> Path:
    """Return the model in four bits and a float16 scale for 32 weights, its table in float16, as our artifact has it."""
    target = folder / "same-bits.gguf"
    table = ["--allow-requantize", "--token-embedding-type", "f16", "--output-tensor-type", "f16"]
    command = [str(PEERS / "llama-quantize"), *table, str(smollm2.gguf()), str(target), "Q4_0"]
    subprocess.run(command, check=True, capture_output=True)
    return target


@contextlib.contextmanager
def server(
    command: Sequence[str], log: Path, url: str, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """Run a server until the block ends; begin when it says it is ready."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *command],
            env=os.environ | dict(environment),
            stdout=output,
            stderr=output,
            text=True,
        )
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{' '.join(command)} is not ready:\n{log.read_text()[-3000:]}")
            time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        process.wait(60)


def answers(url: str) -> bool:
    """Return whether a server answers well."""
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url).is_success
    return False


@contextlib.contextmanager
def driver(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a driver until the block ends."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise SystemExit(f"{' '.join(command)} did not begin")
        yield process
    finally:
        process.stdin.close()
        process.wait(60)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
