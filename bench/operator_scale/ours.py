"""Anneal's side: FineTuneJobs that are planned and wait to be released, and the operator as its chart runs it.

A plan belongs to the UID of its FineTuneJob, so it cannot be there before the object is. The objects are therefore
created suspended, with their plans, before the clock starts; what is timed begins with the write that clears
spec.suspend, which costs the API server what a creation would.
"""

import copy
import sys
import urllib.request
from pathlib import Path

import yaml

from anneal_api.base import API_VERSION, ArtifactRef, Condition, wire
from anneal_api.finetunejob import FineTuneJobSpec, FineTuneJobStatus
from anneal_api.memory import ModelShape
from anneal_api.outcome import FineTuneInspection, FineTuneKeys, TaskFacts
from anneal_api.profiles import OperatorConfig
from anneal_api.runs import FineTuneRun
from anneal_operator import config as operator_config
from anneal_operator import naming, plan
from anneal_operator.draft import Draft
from anneal_operator.finetunejob import resources
from anneal_operator.reconciler import utc_now
from operator_scale import plane
from operator_scale.audit import name
from operator_scale.plane import Daemon, Object, Plane

USER = "anneal"
NAMESPACE = "bench"
COLLECTION = f"/apis/{API_VERSION}/namespaces/{NAMESPACE}/finetunejobs"
METRICS_PORT, HEALTH_PORT = 18091, 18090
STORE = "pvc://store/anneal"
CRDS = Path(__file__).parents[2] / "manifests" / "crds"
CONFIG = OperatorConfig.model_validate(
    {
        "images": {"trainers": "anneal/trainers:1", "serving": "anneal/serving:1"},
        "accelerators": [{"name": "a100", "resourceName": "nvidia.com/gpu", "memoryGib": 80}],
    }
)
SPEC = {
    "suspend": True,
    "baseModel": {"uri": f"{STORE}/base"},
    "tasks": [{"name": "tune", "data": {"uri": f"{STORE}/tune.jsonl"}}],
    "workers": {"nodes": 1, "acceleratorsPerNode": 1, "accelerator": "a100"},
    "output": {"uri": STORE},
}
SHAPE = ModelShape(
    architecture="LlamaForCausalLM",
    layers=32,
    hidden=4096,
    intermediate=11008,
    heads=32,
    kv_heads=32,
    head_size=128,
    vocabulary=32256,
    max_positions=16384,
    tied=False,
)


def digest(letter: str) -> str:
    """Return a digest that nothing has."""
    return f"sha256:{letter * 64}"


def dataset() -> ArtifactRef:
    """Return where the prepared data lie."""
    return ArtifactRef(uri=f"{STORE}/{NAMESPACE}/dataset/{'1' * 64}", digest=digest("1"))


INSPECTION = FineTuneInspection(
    base_digest=digest("0"),
    shape=SHAPE,
    tasks=[TaskFacts(name="tune", digest=digest("9"), rows=1000)],
    keys=FineTuneKeys(prepare="1" * 64, train="2" * 64, evaluate="3" * 64, export="4" * 64),
    published={"prepare": dataset()},
    scores=[],
)


def resource(number: int) -> Object:
    """Return a FineTuneJob that is held."""
    meta = {"name": name(number), "namespace": NAMESPACE}
    return {"apiVersion": API_VERSION, "kind": "FineTuneJob", "metadata": meta, "spec": copy.deepcopy(SPEC)}


def inspected(owner: Object, frozen: Object) -> Object:
    """Return the FineTuneJob with the status that it has once its plan is kept."""
    now, where = owner["metadata"]["creationTimestamp"], frozen["metadata"]["name"]
    kept = plan.thaw(where, frozen["data"], FineTuneRun)
    assert kept is not None
    held = [
        Condition(type="Inspected", status="True", reason="Inspected", last_transition_time=now),
        Condition(type="PlanReady", status="True", reason="Planned", last_transition_time=now),
    ]
    return {**owner, "status": wire(FineTuneJobStatus(conditions=held, run=kept.identity))}


def planned(owner: Object) -> Object:
    """Return the plan as the operator writes it after inspection."""
    meta = owner["metadata"]
    spec = FineTuneJobSpec.model_validate(owner["spec"])
    profile = CONFIG.accelerator(spec.workers.accelerator)
    assert profile is not None
    run = FineTuneRun(
        namespace=NAMESPACE,
        name=meta["name"],
        uid=meta["uid"],
        spec=spec,
        accelerator=profile,
        inspection=INSPECTION,
    )
    plain = operator_config.plain_cpu(CONFIG)
    where = naming.child_name(meta["name"], "plan", meta["uid"])
    site = resources.Site(reference(owner), NAMESPACE, run, where, CONFIG.images.trainers, plain)
    return plan.freeze(resources.metadata(site, where, "plan"), run, CONFIG.images)


def reference(owner: Object) -> Object:
    """Return the owner reference that a FineTuneJob's children carry."""
    return Draft(owner, "FineTuneJob", FineTuneJobStatus(), utc_now()).owner


async def install(place: Plane) -> None:
    """Make the CRDs and the namespace."""
    for path in sorted(CRDS.glob("*.yaml")):
        for crd in yaml.safe_load_all(path.read_text()):
            await place.ask("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
    await place.ask("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    await plane.served(place, f"/apis/{API_VERSION}/finetunejobs", f"/apis/{API_VERSION}/modeldeployments")


async def prepare(place: Plane, objects: int) -> None:
    """Make so many FineTuneJobs and their plans."""

    async def make(obj: Object) -> None:
        made = await place.ask("POST", COLLECTION, obj)
        frozen = planned(made)
        await place.ask("POST", f"/api/v1/namespaces/{NAMESPACE}/configmaps", frozen)
        await place.ask("PUT", f"{COLLECTION}/{made['metadata']['name']}/status", inspected(made, frozen))

    await plane.each(make, [resource(number) for number in range(objects)])


def operator(place: Plane) -> Daemon:
    """Start the operator as a process of its own."""
    settings = plane.PLACE.state / "operator.json"
    settings.write_text(CONFIG.model_dump_json(by_alias=True, exclude_none=True))
    env = {
        "KUBECONFIG": str(plane.user(USER)),
        "ANNEAL_CONFIG": str(settings),
        "ANNEAL_HEALTH_PORT": str(HEALTH_PORT),
        "ANNEAL_METRICS_PORT": str(METRICS_PORT),
        "PYTHONPATH": ":".join(path for path in sys.path if path.endswith("/src")),
    }
    return place.start("operator", sys.executable, "-m", "anneal_operator", env=env)


async def release(place: Plane, obj: Object) -> None:
    """Clear spec.suspend."""
    path = f"{COLLECTION}/{obj['metadata']['name']}"
    await place.ask("PATCH", path, {"spec": {"suspend": False}}, "application/merge-patch+json")


def figures() -> dict[str, float]:
    """Return the operator's own metrics, labels and all."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return {}
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {key: float(value) for key, _, value in pairs}


async def known(place: Plane, objects: int) -> float:
    """Wait until the operator has looked at so many FineTuneJobs; returns the seconds it took."""
    return await place.until("a first look at each", lambda: reconciles() >= objects, 300)


def reconciles() -> float:
    """Return how many looks at FineTuneJobs there have been."""
    return sum(value for key, value in figures().items() if key.startswith("anneal_reconciles_total{"))
