"""The inspect stage: seconds on any CPU, before an accelerator is asked for.

Resolves what is to be served, reads its sizes off the config, computes the keys of all stages and says which
are published. Reads only small files: no weights, no torch, no runtime.
"""

import json

from anneal_api.artifacts import STAGE_KINDS, File, Manifest, deployment_keys
from anneal_api.base import ArtifactRef
from anneal_api.outcome import DeploymentInspection, DeploymentKeys, GateResult
from anneal_api.runs import DeploymentRun
from anneal_evaluation.suites.problems import judged
from anneal_runtime import artifacts, stage, storage
from anneal_runtime.errors import Refused
from anneal_serving import builders, hugging_face, suites
from anneal_serving.decoder import Decoder, from_hugging_face

REQUIRED = ("tokenizer.json", "chat.json", "reference.safetensors")
CALIBRATION = "calibration.safetensors"


def main() -> int:
    """Run the stage as a pod does."""
    return stage.run_stage(run, DeploymentRun)


def run(config: DeploymentRun) -> DeploymentInspection:
    """Inspect the model of this version."""
    uri = config.model.uri
    storage.check_access({"spec.model": uri, "spec.storage.uri": config.spec.storage.uri or uri})
    manifest = resolve(config)
    model = ArtifactRef(uri=uri, digest=manifest.digest)
    decoder = read_decoder(config, manifest)
    scored = [suite for suite, _ in suites.with_references(config, manifest)]
    keys = deployment_keys(
        config.spec,
        manifest.digest,
        calibration_digest(config, manifest),
        builders.builder(config.spec, config.accelerator),
        [suite.digest for suite in scored],
    )
    published = find_published(config, keys)
    return DeploymentInspection(
        model=model,
        shape=decoder.shape,
        keys=keys,
        published=published,
        gate=read_gate(published),
        judged=judged(problem for suite in scored for problem in suite.problems),
    )


def resolve(config: DeploymentRun) -> Manifest:
    """Return the manifest of the model, once it is sure to be the one that is asked for."""
    uri, pinned = config.model.uri, config.model.digest or config.spec.model.version
    manifest = artifacts.published(uri)
    if manifest is None:
        raise Refused(
            "NotPublished",
            f"spec.model: {uri} holds no published model; name a folder that a FineTuneJob's export stage wrote",
        )
    if manifest.kind != "model":
        raise Refused("NotAModel", f"spec.model: {uri} is a {manifest.kind}; name an artifact of kind model")
    if pinned and manifest.digest != pinned:
        raise Refused(
            "VersionMismatch",
            f"spec.model.version: {uri} is {manifest.digest}, pinned is {pinned}; pin that digest or name the other folder",
        )
    return manifest


def read_decoder(config: DeploymentRun, manifest: Manifest) -> Decoder:
    """Return the model's sizes; everything that later stages read is there and fits the recipe."""
    uri = config.model.uri
    missing = [name for name in REQUIRED if file_of(manifest, name) is None]
    if missing:
        raise Refused(
            "IncompleteModel",
            f"spec.model: {uri} has no {', '.join(missing)}; serve a model that a FineTuneJob exported",
        )
    decoder = from_hugging_face(hugging_face.read(uri).config)
    decoder.check_group(config.spec.quantization.group)
    decoder.check_ranks(config.spec.engine.tensor_parallel_size, config.spec.quantization.group)
    return decoder


def file_of(manifest: Manifest, name: str) -> File | None:
    """Return a file of the artifact by its path."""
    return next((file for file in manifest.files if file.path == name), None)


def calibration_digest(config: DeploymentRun, manifest: Manifest) -> str:
    """Return what stands for the rows AWQ looks at; rounding looks at none."""
    recipe = config.spec.quantization
    if recipe.method != "awq":
        return ""
    if recipe.calibration.uri:
        return artifacts.identity(storage.join(recipe.calibration.uri, CALIBRATION))
    rows = file_of(manifest, CALIBRATION)
    if rows is None:
        raise Refused(
            "NoCalibration",
            f"spec.quantization.calibration.uri: {config.model.uri} has no {CALIBRATION} of its own; name an "
            "artifact that has one, or set spec.quantization.method to rtn",
        )
    return f"sha256:{rows.sha256}"


def store_of(config: DeploymentRun) -> str:
    """Return the store for this version's artifacts: the operator's, the spec's, or the model's own."""
    if store := config.store or config.spec.storage.uri:
        return store
    parts = config.model.uri.rstrip("/").rsplit("/", 3)
    if len(parts) != 4 or parts[2] != "model":
        raise Refused(
            "NoStore",
            f"spec.storage.uri: {config.model.uri} is not inside an artifact store; name a store to write to",
        )
    return parts[0]


def find_published(config: DeploymentRun, keys: DeploymentKeys) -> dict[str, ArtifactRef]:
    """Return the stages whose artifact is there already."""
    store = store_of(config)
    found = {
        name: artifacts.reference(
            artifacts.uri_of(store, config.namespace, STAGE_KINDS[name], getattr(keys, name))
        )
        for name in DeploymentKeys.model_fields
    }
    return {name: ref for name, ref in found.items() if ref}


def read_gate(published: dict[str, ArtifactRef]) -> GateResult | None:
    """Return the gate's measurement, when it is published."""
    if "gate" not in published:
        return None
    filesystem, path = storage.resolve(storage.join(published["gate"].uri, "gate.json"))
    return GateResult(artifact=published["gate"], **json.loads(filesystem.cat_file(path)))
