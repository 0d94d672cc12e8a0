"""The local cluster with the chart installed, and a namespace with a tiny model and data for each module.

Nothing here starts a cluster: scripts/test does, and says how long it took.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.cluster.kube import Json, Kube, idle
from tests.tiny_model import write_tiny_model

ROOT = Path(__file__).parents[2]
SYSTEM = "anneal-system"


def image(operator: Kube, name: str) -> str:
    """Return the reference of an image as the installed chart names it."""
    config = operator.get("configmap", "anneal-operator")["data"]["config.yaml"]
    return str(yaml.safe_load(config)["images"][name])


@pytest.fixture(scope="session", autouse=True)
def kubeconfig() -> None:
    """Point kubectl and helm at the local cluster."""
    command = [sys.executable, "-m", "cluster", "kubeconfig"]
    path = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    os.environ["KUBECONFIG"] = path


def install_chart(*values: Path, sandboxes: str = "go") -> None:
    """Install the chart, or upgrade it, with this checkout's images and the tests' values; `values` are files of further ones."""
    files = (Path("tests/cluster/values.yaml"), *values)
    options = [word for file in files for word in ("--values", file)]
    environment = {**os.environ, "SANDBOXES": sandboxes}
    subprocess.run([ROOT / "scripts" / "install-chart", *options], check=True, cwd=ROOT, env=environment)


@pytest.fixture(scope="session")
def operator(kubeconfig: None) -> Kube:
    """Install the chart, and return its namespace."""
    install_chart()
    return Kube(SYSTEM)


def _pack(folder: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(folder, arcname=".")
    return packed.getvalue()


def upload(kube: Kube, folder: Path, target: str) -> None:
    """Copy a folder's content into the store, through the loader pod."""
    unpack = "import sys,tarfile; tarfile.open(fileobj=sys.stdin.buffer, mode='r|').extractall(sys.argv[1])"
    command = ("exec", "-i", "loader", "--", "python3", "-c", unpack, f"/mnt/anneal/store/{target}")
    kube.run(*command, stdin=_pack(folder))


def rows(count: int, words: str) -> str:
    """Return chat rows as JSON lines: a small language that a tiny model can learn."""
    letters = [words[i % len(words)] for i in range(count + 8)]
    chats = (
        [
            {"role": "user", "content": f"repeat {i} {''.join(letters[i : i + 6])}"},
            {"role": "assistant", "content": "".join(letters[i : i + 6]) * 4},
        ]
        for i in range(count)
    )
    return "".join(json.dumps({"messages": chat}) + "\n" for chat in chats)


def _claim() -> Json:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "store"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }


@pytest.fixture(scope="module")
def team(
    operator: Kube, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kube]:
    """A namespace of its own under restricted Pod Security, whose store holds a tiny model and two datasets."""
    what = request.module.__name__.rsplit(".", 1)[-1].removeprefix("test_").replace("_", "-")
    # An earlier run's namespace may still be ending, or be kept because a test failed in it.
    kube = Kube(f"t-{what}-{os.getpid()}")
    subprocess.run(["kubectl", "create", "namespace", kube.namespace], check=True)
    level = "pod-security.kubernetes.io/enforce=restricted"
    subprocess.run(["kubectl", "label", "namespace", kube.namespace, level], check=True)
    kube.apply(_claim(), idle("loader", image(operator, "trainers"), "store"))
    kube.run("wait", "--for=condition=Ready", "--timeout=120s", "pod/loader")
    folder = tmp_path_factory.mktemp("store")
    write_tiny_model(folder / "base")
    (folder / "data").mkdir()
    (folder / "data" / "letters.jsonl").write_text(rows(240, "abcdefgh"))
    (folder / "data" / "digits.jsonl").write_text(rows(160, "0123456"))
    (folder / "data" / "wrong.jsonl").write_text(rows(3, "xyz") + '{"question": 1}\n')
    upload(kube, folder, ".")
    yield kube
    if not request.session.testsfailed:
        subprocess.run(["kubectl", "delete", "namespace", kube.namespace, "--wait=false"], check=True)


def finetunejob(name: str, **changes: object) -> Json:
    """Return a small FineTuneJob over two tasks on two nodes."""
    spec: Json = {
        "baseModel": {"uri": "pvc://store/base"},
        "tasks": [
            {"name": "letters", "data": {"uri": "pvc://store/data/letters.jsonl"}},
            {"name": "digits", "data": {"uri": "pvc://store/data/digits.jsonl"}},
        ],
        "data": {"maxLength": 128, "split": {"train": 80, "validation": 10, "test": 10}},
        "adapter": {"rank": 8},
        "optimization": {
            "maxSteps": 12,
            "globalBatchTokens": 1024,
            "learningRate": 0.01,
            "minLearningRate": 0.001,
        },
        "workers": {"nodes": 2},
        "checkpoint": {"everySteps": 4},
        "output": {"uri": "pvc://store/artifacts"},
    }
    return {
        "apiVersion": "anneal.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": {**spec, **changes},
    }


def modeldeployment(name: str, job: str, **changes: object) -> Json:
    """Return a ModelDeployment of a job's model on OpenVINO."""
    spec: Json = {
        "model": {"fineTuneJobRef": {"name": job}},
        "quantization": {"method": "awq", "groupSize": 32, "calibration": {"samples": 16}},
        "engine": {"runtime": "openvino", "maxBatchSize": 2, "maxInputLength": 128, "maxSequenceLength": 256},
        "gate": {"maxLogitKL": 0.5, "maxPerplexityIncrease": 0.5},
    }
    return {
        "apiVersion": "anneal.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {**spec, **changes},
    }
