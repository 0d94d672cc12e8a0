"""INT4 of a real model: plain rounding against AWQ, at equal bits, through the stages as pods run them.

Perplexity and KL are those of the gate stage, on the OpenVINO engine that would serve.
"""

import os
import tempfile
import time

import smollm2
from report import Figure, record

from anneal_api.base import ArtifactRef
from anneal_api.modeldeployment import ModelDeploymentSpec
from anneal_api.outcome import GateResult
from anneal_api.profiles import AcceleratorProfile
from anneal_api.runs import ENV_TERMINATION_LOG, DeploymentRun
from anneal_runtime import artifacts
from anneal_serving import engine, gate, inspect_stage, quantize

RECIPES = [("rtn", 64), ("awq", 64), ("rtn", 32), ("awq", 32)]


def measure(model: str, method: str, group: int, store: str) -> tuple[GateResult, float]:
    """Quantise, compile and gate `model`; return the gate's figures and the seconds quantising took."""
    spec = ModelDeploymentSpec.model_validate(
        {
            "model": {"uri": model},
            "storage": {"uri": store},
            "quantization": {"method": method, "groupSize": group},
            "engine": {"runtime": "openvino", "maxInputLength": 512, "maxSequenceLength": 1024},
        }
    )
    digest = artifacts.identity(model)
    run = DeploymentRun(
        namespace="bench",
        name=f"{method}-{group}",
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


def main() -> None:
    """Measure every recipe and record the figures."""
    model = smollm2.exported()
    with tempfile.TemporaryDirectory() as folder:
        results = {(m, g): measure(model, m, g, f"file://{folder}/{m}{g}") for m, g in RECIPES}
    figures = []
    for group in (64, 32):
        plain, aware = results["rtn", group][0], results["awq", group][0]
        for method in ("rtn", "awq"):
            found, seconds = results[method, group]
            name = f"{method} group {group}"
            figures += [
                Figure(f"{name}: worst task's perplexity increase", found.perplexity_increase * 100, "%"),
                Figure(f"{name}: mean KL", found.logit_kl, "nats/token"),
                Figure(f"{name}: time to quantise", seconds, "s"),
            ]
        ratio = aware.perplexity_increase / plain.perplexity_increase
        figures.append(
            Figure(
                f"AWQ's increase over rounding's, group {group}",
                ratio,
                "ratio",
                "rounding",
                "<= 0.6",
                ratio <= 0.6,
            )
        )
    record("quantize", figures)


if __name__ == "__main__":
    os.environ.setdefault(ENV_TERMINATION_LOG, "/dev/null")
    main()
