"""Every sample would be accepted as it stands: by the CRDs' schemas and rules, by the operator, and by the memory plan."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from api_server import ApiServer

from anneal_api import sizing
from anneal_api.base import API_VERSION, LABEL_SECRET
from anneal_api.finetunejob import FineTuneJobSpec
from anneal_api.memory import ModelShape
from anneal_api.modeldeployment import ModelDeploymentSpec
from anneal_api.profiles import AcceleratorProfile

ROOT = Path(__file__).parents[3]
SAMPLES = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))
PROFILES = [
    AcceleratorProfile.model_validate(each)
    for each in yaml.safe_load((ROOT / "charts" / "anneal" / "values.yaml").read_text())["accelerators"]
]


def shape(layers: int, hidden: int, inner: int, heads: int, kv: int, words: int) -> ModelShape:
    return ModelShape(
        architecture="LlamaForCausalLM",
        layers=layers,
        hidden=hidden,
        intermediate=inner,
        heads=heads,
        kv_heads=kv,
        head_size=hidden // heads,
        vocabulary=words,
        max_positions=16384,
        tied=False,
    )


SHAPES = {
    "33b": shape(62, 7168, 19200, 56, 8, 32256),
    "6.7b": shape(32, 4096, 11008, 32, 32, 32256),
    "7b": shape(28, 3584, 18944, 28, 4, 152064),
    "1.5b": shape(28, 1536, 8960, 12, 2, 151936),
}
"""Sizes in config.json of DeepSeek-Coder 33B and 6.7B and of Qwen2.5-Coder 7B and 1.5B, by a part of the sample's address."""


def documents() -> list[Any]:
    read = [(file.stem, each) for file in SAMPLES for each in yaml.safe_load_all(file.read_text()) if each]
    return [pytest.param(each, id=f"{stem}-{each['kind']}") for stem, each in read]


def own() -> list[Any]:
    return [each for each in documents() if each.values[0]["apiVersion"] == API_VERSION]


@pytest.mark.parametrize("document", own())
def test_a_sample_is_accepted_with_every_field_it_sets(document: dict[str, Any]) -> None:
    server = ApiServer()
    meta = {**document["metadata"], "namespace": "default"}
    server.create({**document, "metadata": meta}, "user")
    stored = server.get(document["kind"], "default", meta["name"])
    assert stored is not None
    assert missing(document["spec"], stored["spec"]) == []
    type_ = FineTuneJobSpec if document["kind"] == "FineTuneJob" else ModelDeploymentSpec
    type_.model_validate(document["spec"])


def missing(asked: Any, stored: Any, path: str = "spec") -> list[str]:
    """Return the fields that were asked for and are not stored: the API server drops what it does not know."""
    if isinstance(asked, dict):
        gone = [f"{path}.{name}" for name in asked if name not in stored]
        kept = [name for name in asked if name in stored]
        return gone + [p for name in kept for p in missing(asked[name], stored[name], f"{path}.{name}")]
    if isinstance(asked, list):
        return [
            p
            for n, (a, s) in enumerate(zip(asked, stored, strict=True))
            for p in missing(a, s, f"{path}[{n}]")
        ]
    return []


@pytest.mark.parametrize("document", [each for each in own() if each.values[0]["kind"] == "FineTuneJob"])
def test_a_samples_run_fits_its_accelerator(document: dict[str, Any]) -> None:
    spec = FineTuneJobSpec.model_validate(document["spec"])
    sized = next((s for part, s in SHAPES.items() if part in spec.base_model.uri), SHAPES["1.5b"])
    (profile,) = (p for p in PROFILES if p.name == spec.workers.accelerator)
    plan = sizing.training(spec, sized, profile)
    assert plan.fits, plan.arithmetic


@pytest.mark.parametrize(
    ("sample", "size"),
    [("codefuse-33b", "33b"), ("serve-parallel", "7b"), ("serve-a10", "7b"), ("canary", "7b")],
)
def test_a_samples_replica_fits_its_accelerators(sample: str, size: str) -> None:
    (document,) = (d.values[0] for d in own() if d.id == f"{sample}-ModelDeployment")
    spec = ModelDeploymentSpec.model_validate(document["spec"])
    (profile,) = (p for p in PROFILES if p.name == spec.accelerator)
    plan = sizing.serving(spec, SHAPES[size], profile)
    assert plan.fits, plan.arithmetic
    assert plan.guaranteed_batch >= 1


def test_the_recipe_is_the_published_one() -> None:
    (document,) = (d.values[0] for d in own() if d.id == "codefuse-33b-FineTuneJob")
    spec = FineTuneJobSpec.model_validate(document["spec"])
    workers, optimization = spec.workers, spec.optimization
    assert workers.nodes * workers.accelerators_per_node == 64
    assert optimization.global_batch_rows == 64 * 4
    assert (spec.adapter.type, spec.adapter.rank, spec.adapter.alpha) == ("qlora", 192, 32)
    assert (optimization.learning_rate, optimization.min_learning_rate) == (5e-5, 1e-6)
    assert (optimization.task_balance, optimization.schedule) == ("taskMean", "cosine")
    assert (optimization.epochs, optimization.early_stopping.patience) == (10, 3)
    assert (spec.checkpoint.every_steps, spec.evaluation.every_steps) == (500, 500)
    assert (spec.data.split.train, spec.data.split.validation, spec.data.split.test) == (98, 2, 0)
    assert len(spec.tasks) == 5


@pytest.mark.parametrize("file", SAMPLES, ids=lambda file: file.stem)
def test_a_secret_a_sample_names_is_in_it_and_labelled_for_its_use(file: Path) -> None:
    all_of_it = [each for each in yaml.safe_load_all(file.read_text()) if each]
    made = {
        d["metadata"]["name"]: d["metadata"].get("labels", {}) for d in all_of_it if d["kind"] == "Secret"
    }
    named = dict(each for document in all_of_it for each in references(document.get("spec", {})))
    assert set(named) <= set(made)
    for name, use in named.items():
        assert made[name].get(LABEL_SECRET) == use


def references(spec: Any, parent: str = "") -> list[tuple[str, str]]:
    """Return the Secrets that a spec names, and the label that each must have."""
    uses = {"telemetry": "tracking"}
    found: list[tuple[str, str]] = []
    for key, value in spec.items() if isinstance(spec, dict) else ():
        if key == "secretRef":
            found.append((value["name"], uses.get(parent, "storage")))
        elif key == "apiKeysSecret":
            found.append((value["name"], "api-keys"))
        else:
            found += references(value, key)
    return found


def test_every_sample_is_listed() -> None:
    page = (ROOT / "docs" / "samples.md").read_text()
    assert [file.name for file in SAMPLES if f"(samples/{file.name})" not in page] == []


def exposed(sample: str) -> dict[str, Any]:
    """Return a sample's objects by kind."""
    return {d.values[0]["kind"]: d.values[0] for d in documents() if str(d.id).rpartition("-")[0] == sample}


def test_the_exposed_service_is_the_gateways() -> None:
    found = exposed("expose")
    (rule,) = found["Ingress"]["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert path["backend"]["service"] == {
        "name": found["ModelDeployment"]["metadata"]["name"],
        "port": {"number": 80},
    }


def test_the_route_leads_to_the_gateways_service_and_waits_as_long() -> None:
    found = exposed("expose-route")
    served, (rule,) = found["ModelDeployment"], found["HTTPRoute"]["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": served["metadata"]["name"], "port": 80}]
    assert rule["timeouts"] == {"request": f"{served['spec']['gateway']['requestTimeoutSeconds']}s"}
    (parent,), (listener,) = (
        found["HTTPRoute"]["spec"]["parentRefs"],
        found["Gateway"]["spec"]["listeners"],
    )
    assert parent == {"name": found["Gateway"]["metadata"]["name"], "sectionName": listener["name"]}
    assert (listener["protocol"], listener["tls"]["mode"]) == ("HTTPS", "Terminate")
    assert found["HTTPRoute"]["spec"]["hostnames"] == [listener["hostname"]]
