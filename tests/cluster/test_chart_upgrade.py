"""helm over an older release on a real API server, and back: CRDs grow, and nothing of anybody's is lost.

On an API server of the test's own (`own_server`): what is at stake is kept there, and no node is needed. The older
release is this chart with CRDs that lack fields which have come since.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import tools
from tests.cluster.administrator import administrator
from tests.cluster.own_server import CRD_PATH, ROOT, TEAM, Json, OwnServer, served, until
from tests.cluster.test_chart_accepted import EVERYTHING

pytestmark = pytest.mark.cluster
CHART = ROOT / "charts" / "anneal"
NEWER = {"finetunejobs": ["telemetry"], "modeldeployments": ["drainSeconds"]}
"""Fields of the spec that the older CRDs do not know."""
GROUP = f"/apis/anneal.dev/v1alpha1/namespaces/{TEAM}"
MERGE = "application/merge-patch+json"
STATUS: Json = {"phase": "Complete", "conditions": [], "acceleratorSeconds": 7}
LEFT = {
    "CustomResourceDefinition finetunejobs.anneal.dev",
    "CustomResourceDefinition modeldeployments.anneal.dev",
    "Namespace anneal-system",
}
"""What helm leaves; the operator's own Lease and what a failed `helm test` left are no part of a release."""


@pytest.fixture(scope="session", autouse=True)
def kubeconfig() -> None:
    """Takes the place of the local cluster's: these tests need none."""


class Release:
    """helm on an API server of the test's own."""

    def __init__(self, server: OwnServer, folder: Path) -> None:
        self.server = server
        self.older = shutil.copytree(CHART, folder / "older")
        for path in (self.older / "files" / "crds").iterdir():
            path.write_text(yaml.safe_dump(without(yaml.safe_load(path.read_text()))))
        self._environment = administrator(server, folder)

    def helm(self, *words: object) -> None:
        self._run("helm", *words, "--namespace", "anneal-system")

    def _run(self, tool: str, *words: object) -> str:
        command = [str(word) for word in (tools.binary(tool), *words)]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def installed(self) -> set[str]:
        """Return everything in the cluster, of every kind, that helm has made."""
        kinds = self._run("kubectl", "api-resources", "--verbs=list", "-o", "name").split()
        listed = self._run("kubectl", "get", ",".join(kinds), "-A", "-o", "json", "--show-managed-fields")
        return {told(each) for each in json.loads(listed)["items"] if "helm" in managers(each)}

    def knows(self, plural: str, field: str) -> bool:
        crd = self.server.call("GET", f"{CRD_PATH}/{plural}.anneal.dev")
        return crd is not None and field in _spec_of(crd)


def managers(obj: Json) -> set[str]:
    """Return who has written an object."""
    return {field["manager"].lower() for field in obj["metadata"].get("managedFields", [])}


def told(obj: Json) -> str:
    meta = obj["metadata"]
    return " ".join([obj["kind"], *filter(None, [meta.get("namespace")]), meta["name"]])


def _spec_of(crd: Json) -> Json:
    (version,) = crd["spec"]["versions"]
    return dict(version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"])


def without(crd: Json) -> Json:
    """Return a CRD as it was before some fields came."""
    (version,) = crd["spec"]["versions"]
    for field in NEWER[crd["spec"]["names"]["plural"]]:
        del version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"][field]
    return crd


@pytest.fixture
def release(tmp_path: Path) -> Iterator[Release]:
    server = OwnServer(tmp_path)
    try:
        server.start()
        server.apply(
            "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TEAM}}
        )
        yield Release(server, tmp_path)
    finally:
        server.stop()


def resource(kind: str, **spec: Any) -> Json:
    return {"apiVersion": "anneal.dev/v1alpha1", "kind": kind, "metadata": {"name": "ours"}, "spec": spec}


def make(server: OwnServer) -> None:
    """Make one of each kind, with a status."""
    ours = {
        "finetunejobs": resource(
            "FineTuneJob",
            baseModel={"uri": "pvc://store/base"},
            tasks=[{"name": "a", "data": {"uri": "pvc://store/a.jsonl"}}],
            output={"uri": "pvc://store/artifacts"},
        ),
        "modeldeployments": resource(
            "ModelDeployment", model={"uri": "pvc://store/model"}, engine={"runtime": "openvino"}, replicas=3
        ),
    }
    for plural, obj in ours.items():
        until(lambda plural=plural: served(server, plural), f"{plural} are served")
        server.apply(f"{GROUP}/{plural}", obj)
    server.call("PATCH", f"{GROUP}/finetunejobs/ours/status", {"status": STATUS}, MERGE)
    server.call("PATCH", f"{GROUP}/modeldeployments/ours/status", {"status": {"desiredReplicas": 3}}, MERGE)


def everything(server: OwnServer) -> Json:
    """Return both resources as they are kept, but for the defaults of newer fields."""
    found: Json = {}
    for plural, fields in NEWER.items():
        obj = server.call("GET", f"{GROUP}/{plural}/ours")
        assert obj is not None, f"{plural}/ours is gone"
        for field in fields:
            obj["spec"].pop(field, None)
        found[plural] = obj
    return found


def test_an_upgrade_a_way_back_and_an_uninstall_lose_nothing(release: Release) -> None:
    server = release.server
    release.helm("install", "anneal", release.older, "--create-namespace")
    make(server)
    before = everything(server)
    assert before["finetunejobs"]["status"] == STATUS
    assert not release.knows("finetunejobs", "telemetry")

    release.helm("upgrade", "anneal", CHART)
    assert release.knows("finetunejobs", "telemetry")
    assert release.knows("modeldeployments", "drainSeconds")
    assert everything(server) == before
    newer = {"spec": {"telemetry": {"wandbProject": "p"}}}

    def kept() -> bool:
        # The new schema is served a moment after it is stored.
        changed = server.call("PATCH", f"{GROUP}/finetunejobs/ours", newer, MERGE)
        return changed is not None and changed["spec"].get("telemetry") == newer["spec"]["telemetry"]

    until(kept, "the new field is kept")

    release.helm("rollback", "anneal", "1")
    back = everything(server)
    assert not release.knows("finetunejobs", "telemetry")
    for plural, obj in back.items():
        assert obj["metadata"]["uid"] == before[plural]["metadata"]["uid"]
        assert (obj["spec"], obj["status"]) == (before[plural]["spec"], before[plural]["status"])

    release.helm("uninstall", "anneal")
    assert everything(server)["finetunejobs"]["status"] == STATUS
    assert server.call("GET", "/apis/apps/v1/namespaces/anneal-system/deployments/anneal-operator") is None


def test_a_release_after_an_uninstall_takes_what_was_kept(release: Release) -> None:
    release.helm("install", "anneal", CHART, "--create-namespace")
    make(release.server)
    before = everything(release.server)
    release.helm("uninstall", "anneal")
    release.helm("install", "anneal", CHART)
    assert everything(release.server) == before


def test_an_uninstall_leaves_what_is_documented_and_nothing_else(release: Release) -> None:
    """The Prometheus operator's kinds apart, which this API server does not have."""
    wanted = [each for each in EVERYTHING if not re.match(r"metrics\.(serviceMonitor|prometheusRule)", each)]
    release.helm("install", "anneal", CHART, "--create-namespace", *(f"--set={each}" for each in wanted))
    assert len(release.installed()) > 30
    release.helm("uninstall", "anneal")
    assert release.installed() == LEFT
    page = (ROOT / "docs" / "operations.md").read_text().partition("## Uninstall")[2].partition("\n## ")[0]
    assert [each for each in LEFT if each.split()[-1] not in page] == []
