"""`make demo` on a cluster that somebody has already: by the name of a context that is not the current one."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import settings
from tests.cluster.conftest import ROOT, SYSTEM
from tests.cluster.kube import Kube

pytestmark = [pytest.mark.cluster, pytest.mark.full]
QUICKSTART = Kube("anneal-quickstart")
CONTEXT = "theirs"


def kubectl(*words: str) -> str:
    return subprocess.run(["kubectl", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def configuration(operator: Kube, tmp_path: Path) -> Iterator[Path]:
    """A kubeconfig whose current context leads nowhere; the release is what it was again in the end."""
    theirs = json.loads(kubectl("config", "view", "--raw", "--flatten", "-o", "json"))
    (context,) = theirs["contexts"]
    nowhere = {"name": "nowhere", "cluster": {"server": "https://127.0.0.1:9"}}
    theirs["clusters"].append(nowhere)
    theirs["contexts"] = [
        {**context, "name": CONTEXT},
        {"name": "nowhere", "context": {"cluster": "nowhere", "user": context["context"]["user"]}},
    ]
    theirs["current-context"] = "nowhere"
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(theirs))
    yield path
    kubectl("delete", "namespace", QUICKSTART.namespace, "--ignore-not-found", "--wait=false")
    subprocess.run(["helm", "rollback", "anneal", "-n", SYSTEM, "--wait"], check=True)


def test_the_demo_fine_tunes_and_serves_there_and_touches_nothing_else(configuration: Path) -> None:
    before = configuration.read_bytes()
    namespaces = set(kubectl("get", "namespaces", "-o", "name").split())
    asked = {
        "CONTEXT": CONTEXT,
        "REGISTRY": f"{settings.REGISTRY}/anneal",
        "KUBECONFIG": str(configuration),
        "PATH": f"{settings.CACHE}/bin:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["scripts/demo"], cwd=ROOT, env=os.environ | asked, capture_output=True, text=True, check=False
    )
    print(done.stdout[-6000:])
    assert done.returncode == 0, done.stderr[-3000:]
    assert "answers meanwhile, none failed" in done.stdout
    assert configuration.read_bytes() == before
    left = set(kubectl("get", "namespaces", "-o", "name").split())
    assert left - namespaces <= {f"namespace/{name}" for name in (QUICKSTART.namespace, SYSTEM)}
