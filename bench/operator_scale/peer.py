"""The peer: Kubeflow Trainer's controller manager and JobSet's, with the manifests of the pinned versions.

As shipped: rate limits, concurrency, leader election, defaulting and validating webhooks. Changed: where they listen,
and that the webhooks' certificates come from the benchmark's authority instead of their own certificate managers, since
there are no Services that lead to processes outside the cluster.
"""

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import yaml
from cluster import certificates, tools

from operator_scale import plane
from operator_scale.audit import name
from operator_scale.plane import Daemon, Object, Plane

USERS = ("trainer", "jobset")
NAMESPACE = "bench"
MODULE = "trainer"
TRAINER, JOBSET = "github.com/kubeflow/trainer/v2", "sigs.k8s.io/jobset"
GROUP = "trainer.kubeflow.org/v1alpha1"
COLLECTION = f"/apis/{GROUP}/namespaces/{NAMESPACE}/trainjobs"
RUNTIME = "torch-distributed"
PORTS = {"trainer": 29443, "jobset": 29444}
"""Of the webhooks; probes and metrics listen 1000 and 2000 above."""
SERVED = "k8s-webhook-server/serving-certs"
"""Where a webhook server looks for its certificate, in the folder for temporary files."""


def resource(number: int) -> Object:
    """Return a TrainJob of one node, as a FineTuneJob of the other side has one."""
    trainer = {
        "image": "anneal/trainers:1",
        "command": ["python3", "-m", "anneal_trainers", "train"],
        "numNodes": 1,
        "resourcesPerNode": {"limits": {"nvidia.com/gpu": 1}},
    }
    return {
        "apiVersion": GROUP,
        "kind": "TrainJob",
        "metadata": {"name": name(number), "namespace": NAMESPACE},
        "spec": {"runtimeRef": {"name": RUNTIME}, "trainer": trainer},
    }


async def create(place: Plane, obj: Object) -> None:
    """Make a TrainJob."""
    await place.ask("POST", COLLECTION, obj)


async def install(place: Plane) -> None:
    """Make CRDs, namespaces, webhook configurations; start both managers; make the runtime."""
    trainer, jobset = tools.source(MODULE, TRAINER), tools.source(MODULE, JOBSET)
    crds = [
        *trainer.glob("manifests/base/crds/trainer*.yaml"),
        *jobset.glob("config/components/crd/bases/*.yaml"),
    ]
    for path in sorted(crds):
        await place.ask("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", _read(path)[0])
    for namespace in (NAMESPACE, *USERS):
        await place.ask("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    await plane.served(place, f"/apis/{GROUP}/trainjobs", "/apis/jobset.x-k8s.io/v1alpha2/jobsets")
    managers(place)
    await _hooks(place, "jobset", jobset / "config/components/webhook", _patched)
    await _hooks(place, "trainer", trainer / "manifests/base/webhook", lambda _, hooks: hooks)
    for port in PORTS.values():
        await place.until("the peer's probe", lambda port=port: plane.answers(port + 1000, "/readyz"), 120)
    (runtime,) = _read(trainer / "manifests/base/runtimes/torch_distributed.yaml")
    await place.ask("POST", f"/apis/{GROUP}/clustertrainingruntimes", runtime)


def managers(place: Plane) -> list[Daemon]:
    """Start both."""
    return [_manager(place, "trainer", "trainer-controller-manager"), _manager(place, "jobset", "jobset")]


def _manager(place: Plane, user: str, binary: str) -> Daemon:
    folder = plane.PLACE.state / user
    shutil.rmtree(folder, ignore_errors=True)
    served = folder / SERVED
    served.mkdir(parents=True)
    names = "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth"
    certificates.issue("webhook", "webhook", extensions=names, place=plane.PLACE)
    for end in ("crt", "key"):
        shutil.copy(plane.PLACE.pki / f"webhook.{end}", served / f"tls.{end}")
    configuration = folder / "config.yaml"
    configuration.write_text(json.dumps(_configuration(user)))
    env = {"KUBECONFIG": str(plane.user(user)), "TMPDIR": str(folder)}
    return place.start(user, tools.binary(binary), f"--config={configuration}", env=env)


def _configuration(user: str) -> Object:
    """Return the shipped configuration with other addresses."""
    port = PORTS[user]
    if user == "trainer":
        path = tools.source(MODULE, TRAINER) / "manifests/base/manager/controller_manager_config.yaml"
        (shipped,) = _read(path)
        shipped["certManagement"]["enable"] = False
        shipped["metrics"] = {"bindAddress": f"127.0.0.1:{port + 2000}", "secureServing": False}
    else:
        path = tools.source(MODULE, JOBSET) / "config/components/manager/controller_manager_config.yaml"
        (shipped,) = _read(path)
        shipped["internalCertManagement"]["enable"] = False
        # Its metrics are served with a certificate that it does not make itself.
        served = str(plane.PLACE.state / user / SERVED)
        shipped["metrics"] = {"bindAddress": f"127.0.0.1:{port + 2000}", "certDir": served}
    shipped["webhook"] = {"port": port, "host": "127.0.0.1"}
    shipped["leaderElection"]["resourceNamespace"] = user
    shipped["health"] = {**shipped.get("health", {}), "healthProbeBindAddress": f"127.0.0.1:{port + 1000}"}
    return dict(shipped)


async def _hooks(place: Plane, user: str, folder: Path, patched: Any) -> None:
    bundle = base64.b64encode((plane.PLACE.pki / "ca.crt").read_bytes()).decode()
    for made in _read(folder / "manifests.yaml"):
        made["metadata"]["name"] = f"{user}-{made['kind'].lower()}"
        made["webhooks"] = patched(folder, made["webhooks"])
        for hook in made["webhooks"]:
            path = hook["clientConfig"]["service"]["path"]
            hook["clientConfig"] = {"url": f"https://127.0.0.1:{PORTS[user]}{path}", "caBundle": bundle}
        await place.ask("POST", f"/apis/admissionregistration.k8s.io/v1/{made['kind'].lower()}s", made)


def _patched(folder: Path, hooks: list[Object]) -> list[Object]:
    """Apply JobSet's patches, which limit the hooks of pods to pods of JobSets."""
    values = [patch["value"] for path in folder.glob("patches/*.yaml") for patch in _read(path)[0]]
    replaced = {value["name"]: value for value in values}
    return [replaced.get(hook["name"], hook) for hook in hooks]


def _read(path: Path) -> list[Any]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]
