"""Artifacts: folders with a manifest written last, named by the content they were made from.

Path `<store>/<namespace>/<kind>/<key>`; the key is a sha256 over the identities of a stage's inputs,
the part of the configuration that changes its output, and the stage's semantic version.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from anneal_api.base import Model, wire
from anneal_api.finetunejob import FineTuneJobSpec
from anneal_api.modeldeployment import ModelDeploymentSpec
from anneal_api.outcome import DeploymentKeys, FineTuneKeys

Kind = Literal[
    "base-model",
    "shard",
    "dataset",
    "adapter",
    "evaluation",
    "model",
    "quantized",
    "engine",
    "gate",
    "suite",
    "suites",
]
MANIFEST = "manifest.json"
DATA_REPORT = "report.html"
"""In a dataset: what became of the rows, for a person to read."""
DATA_FIGURES = "report.json"
"""Beside it: the same as data."""

STAGE_VERSIONS = {
    "shard": 2,
    "prepare": 5,
    "train": 2,
    "evaluate": 2,
    "export": 2,
    "quantize": 5,
    "engine": 3,
    "gate": 3,
    "suite": 1,
    "suites": 1,
}
"""Raised only when a stage's output changes for the same input."""

STAGE_KINDS: dict[str, Kind] = {
    "shard": "shard",
    "prepare": "dataset",
    "train": "adapter",
    "evaluate": "evaluation",
    "export": "model",
    "quantize": "quantized",
    "engine": "engine",
    "gate": "gate",
    "suite": "suite",
    "suites": "suites",
}


class File(Model):
    """One file of an artifact."""

    path: str = Field(description="Relative to the artifact's folder, with forward slashes.")
    size: int
    sha256: str


class Producer(Model):
    """Who made an artifact."""

    namespace: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    stage: str = ""
    version: str = Field("", description="Version of Anneal.")


class Manifest(Model):
    """`manifest.json`: written last, so a folder that has one is whole."""

    version: Literal[1] = 1
    kind: Kind
    key: str
    producer: Producer = Producer()
    inputs: dict[str, str] = Field({}, description="Digest of each input, by its role.")
    files: list[File]
    metadata: dict[str, Any] = Field({}, description="Facts a reader of the artifact needs.")

    def dump(self) -> bytes:
        """Return the canonical bytes; their sha256 is the artifact's digest."""
        return canonical(wire(self)) + b"\n"

    @property
    def digest(self) -> str:
        """The artifact's digest."""
        return f"sha256:{hashlib.sha256(self.dump()).hexdigest()}"


def canonical(value: Any) -> bytes:
    """Return `value` as JSON with sorted keys and no spaces: the same bytes on any machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def content_key(value: Any) -> str:
    """Return the hex sha256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value)).hexdigest()


def _stage_key(stage: str, **inputs: Any) -> str:
    return content_key({"stage": stage, "version": STAGE_VERSIONS[stage], **inputs})


def finetune_keys(
    spec: FineTuneJobSpec,
    base_digest: str,
    task_digests: dict[str, str],
    initial_digest: str | None = None,
    suite_digests: Sequence[str] = (),
    scored_digests: Sequence[str] = (),
) -> FineTuneKeys:
    """Return the content keys of all stages of a run; a stage made of another's output takes its key.

    `initial_digest` is that of the adapter spec.adapter.initFrom names, `suite_digests` those of the suites in
    spec.data.decontaminate and `scored_digests` of those in spec.evaluation.suites: where they lie changes nothing.
    """
    adapter = {name: value for name, value in wire(spec.adapter).items() if name != "initFrom"}
    data = wire(spec.data) | {"decontaminate": sorted(suite_digests)}
    packing = data.pop("packing")
    tasks = [
        {"name": t.name, "digest": task_digests[t.name], "format": t.data.format, "fim": wire(t.fim)}
        for t in spec.tasks
    ]
    prepare = _stage_key("prepare", base=base_digest, template=spec.chat_template, tasks=tasks, data=data)
    train = _stage_key(
        "train",
        base=base_digest,
        dataset=prepare,
        packing=packing,
        weights={t.name: [t.weight, t.sampling_share] for t in spec.tasks},
        adapter=adapter,
        initial=initial_digest,
        optimization=wire(spec.optimization),
        stages=[wire(s) for s in spec.stages],
        checkpoint=wire(spec.checkpoint),
        evaluation=spec.evaluation.every_steps,
    )
    export = _stage_key("export", adapter=train)
    return FineTuneKeys(
        prepare=prepare,
        train=train,
        evaluate=_stage_key("evaluate", adapter=train, suites=[]),
        export=export,
        suites=_stage_key("suites", model=export, suites=list(scored_digests)),
    )


def shard_key(prepare: str, number: int, of: int) -> str:
    """Return the content key of a shard of what the stage with the key `prepare` reads."""
    return _stage_key("shard", prepare=prepare, number=number, of=of)


def suite_key(model: str, digest: str) -> str:
    """Return the content key of what a model scored on a suite, so that a gate finds it by the model it serves.

    `model` is the key of the model's artifact, `digest` that of the suite's file.
    """
    return _stage_key("suite", model=model, suite=digest)


def deployment_keys(
    spec: ModelDeploymentSpec,
    model_digest: str,
    calibration_digest: str,
    builder: str,
    suite_digests: Sequence[str] = (),
) -> DeploymentKeys:
    """Return the content keys of a model version's stages.

    `builder` names what an engine is tied to besides its input: runtime version and compute capability.
    `suite_digests` are those of the suites in spec.gate.suites.
    """
    quantization = wire(spec.quantization)
    quantization.pop("accelerator", None)
    quantize = _stage_key(
        "quantize", model=model_digest, calibration=calibration_digest, quantization=quantization
    )
    engine = _stage_key("engine", weights=quantize, engine=wire(spec.engine), builder=builder)
    suites = {"suites": sorted(suite_digests)} if suite_digests else {}
    return DeploymentKeys(quantize=quantize, engine=engine, gate=_stage_key("gate", engine=engine, **suites))
