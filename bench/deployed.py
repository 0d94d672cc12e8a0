"""A model of the benchmarks through the serving stages, as pods run them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import smollm2

from anneal_api.base import ArtifactRef
from anneal_api.modeldeployment import ModelDeploymentSpec
from anneal_api.profiles import AcceleratorProfile
from anneal_api.runs import DeploymentRun
from anneal_runtime import artifacts
from anneal_serving import engine, inspect_stage, quantize, stages

GROUP = 32
"""As in the quick start; 128 does not divide SmolLM2's hidden size of 576."""


def planned(model: str, method: str, store: str, limits: dict[str, Any], **spec: Any) -> DeploymentRun:
    """Return the inspected run of a deployment on OpenVINO; `limits` are fields of spec.engine."""
    fields = {
        "model": {"uri": model},
        "storage": {"uri": store},
        "quantization": {"method": method, "groupSize": GROUP},
        "engine": {"runtime": "openvino", **limits},
        **spec,
    }
    run = DeploymentRun(
        namespace=model.split("/")[-3],
        name=method,
        uid="bench",
        spec=ModelDeploymentSpec.model_validate(fields),
        accelerator=AcceleratorProfile(name="cpu", memory_gib=8),
        model=ArtifactRef(uri=model, digest=artifacts.identity(model)),
        store=store,
    )
    return run.model_copy(update={"inspection": inspect_stage.run(run)})


def compiled(run: DeploymentRun) -> Path:
    """Return the folder of the run's engine; what is published already is not made again."""
    published = stages.inspected(run).published
    for name, stage in (("quantize", quantize), ("engine", engine)):
        if name not in published:
            stage.run(run)
    return folder_of(run, "engine")


def folder_of(run: DeploymentRun, stage: str) -> Path:
    """Return the folder of a stage's artifact."""
    return Path(stages.uri_of(run, stage).removeprefix("file://"))


def kept(run: DeploymentRun, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what was found before of what `run` makes, by its gate's key, or else what is found now.

    So a benchmark that takes longer than the machine is quiet goes on where it was cut off.
    """
    path = smollm2.CACHE / "found" / stages.key_of(run, "gate") / f"{name}.json"
    if not path.exists():
        found = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found))
    known: dict[str, Any] = json.loads(path.read_text())
    return known
