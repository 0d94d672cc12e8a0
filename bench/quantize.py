"""A real model in float16 and in INT4: plain rounding against AWQ, at equal bits, through the stages as pods run them.

Perplexity and KL are those of the gate stage, on the OpenVINO engine that would serve.
"""

import os
import tempfile
import time
from pathlib import Path

import smollm2
from report import Figure, record

from anneal_api.base import ArtifactRef
from anneal_api.modeldeployment import ModelDeploymentSpec
from anneal_api.outcome import GateResult
from anneal_api.profiles import AcceleratorProfile
from anneal_api.runs import ENV_TERMINATION_LOG, DeploymentRun
from anneal_runtime import artifacts
from anneal_serving import engine, gate, inspect_stage, quantize

METHODS = ("none", "rtn", "awq")
GROUP = 32
"""As in the quick start; 128 does not divide this model's hidden size of 576."""


def measure(model: str, method: str, store: str) -> tuple[GateResult, float]:
    """Quantise, compile and gate `model`; return the gate's figures and the seconds quantising took."""
    spec = ModelDeploymentSpec.model_validate(
        {
            "model": {"uri": model},
            "storage": {"uri": store},
            "quantization": {"method": method, "groupSize": GROUP},
            "engine": {"runtime": "openvino", "maxInputLength": 512, "maxSequenceLength": 1024},
        }
    )
    digest = artifacts.identity(model)
    run = DeploymentRun(
        namespace="bench",
        name=method,
        uid="bench",
        spec=spec,
        accelerator=AcceleratorProfile(name="cpu", memory_gib=8),
        model=ArtifactRef(uri=model, digest=digest),
        store=store,
    )
    inspected = run.model_copy(update={"inspection": inspect_stage.run(run)})
    started = time.perf_counter()
    quantize.run(inspected)
    seconds = time.perf_counter() - started
    engine.run(inspected)
    return gate.run(inspected), seconds


def weights_of(model: str) -> list[Path]:
    """Return the model's weight files."""
    return sorted(Path(model.removeprefix("file://")).glob("model*.safetensors"))


def read_seconds(files: list[Path]) -> float:
    """Return the seconds that reading the files once takes, from the page cache as quantising does."""
    started = time.perf_counter()
    for path in files:
        path.read_bytes()
    return time.perf_counter() - started


def main() -> None:
    """Measure all methods and record the figures."""
    model = smollm2.exported()
    with tempfile.TemporaryDirectory() as folder:
        results = {method: measure(model, method, f"file://{folder}/{method}") for method in METHODS}
    figures = []
    for method, (found, seconds) in results.items():
        figures += [
            Figure(f"{method}: worst task's perplexity increase", found.perplexity_increase * 100, "%"),
            Figure(f"{method}: mean KL", found.logit_kl, "nats/token"),
            Figure(f"{method}: time to quantise", seconds, "s"),
        ]
    files = weights_of(model)
    size = sum(path.stat().st_size for path in files) / 1e9
    rounded, read = size / results["rtn"][1], size / read_seconds(files)
    figures += [
        Figure("rtn: weights quantised", rounded, "GB/s"),
        Figure("a plain read of the same files", read, "GB/s"),
    ]
    plain, aware = (results[method][0] for method in ("rtn", "awq"))
    for what, ratio in (
        ("perplexity increase", aware.perplexity_increase / plain.perplexity_increase),
        ("KL", aware.logit_kl / plain.logit_kl),
    ):
        figures.append(
            Figure(f"AWQ's {what} over rounding's", ratio, "ratio", "rounding", "<= 0.6", ratio <= 0.6)
        )
    record("quantize", figures)


if __name__ == "__main__":
    os.environ.setdefault(ENV_TERMINATION_LOG, "/dev/null")
    main()
