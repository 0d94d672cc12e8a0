"""An operator that is upgraded, and taken back, while a group trains and an endpoint serves: neither is touched."""

import json
import subprocess
import urllib.request
from collections.abc import Iterator

import pytest
from cluster import settings
from tests.cluster import group
from tests.cluster.conftest import SYSTEM, finetunejob, image, modeldeployment
from tests.cluster.kube import Json, Kube, holds

pytestmark = [pytest.mark.cluster, pytest.mark.full]
TAG = "upgrade"
IMAGES = ("operator", "trainers", "serving")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def tagged_again(reference: str) -> str:
    """Give an image of the local registry another tag, so that another release names it; return the tag it had."""
    repository, _, tag = reference.removeprefix(f"{settings.REGISTRY}/").rpartition(":")
    url = f"http://{settings.REGISTRY}/v2/{repository}/manifests"
    asked = urllib.request.Request(f"{url}/{tag}", headers={"Accept": MANIFEST})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        body = answer.read()
    told = urllib.request.Request(f"{url}/{TAG}", body, {"Content-Type": MANIFEST}, method="PUT")
    urllib.request.urlopen(told, timeout=30).close()
    return tag


def helm(*words: str) -> None:
    done = subprocess.run(["helm", *words, "-n", SYSTEM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def upgrade(operator: Kube) -> Iterator[list[str]]:
    """Arguments of helm that upgrade the release to images of other names; it is taken back in the end."""
    (pod,) = operator.get("deployment", "anneal-operator")["spec"]["template"]["spec"]["containers"]
    for reference in (pod["image"], image(operator, "trainers"), image(operator, "serving")):
        tagged_again(reference)
    history = json.loads(subprocess.check_output(["helm", "history", "anneal", "-n", SYSTEM, "-o", "json"]))
    revision = str(history[-1]["revision"])
    wanted = [word for name in IMAGES for word in ("--set", f"images.{name}.tag={TAG}")]
    yield ["upgrade", "anneal", str(group.ROOT / "charts" / "anneal"), "--reuse-values", *wanted, "--wait"]
    helm("rollback", "anneal", revision, "--wait")


def alive(team: Kube) -> dict[str, tuple[str, int, str]]:
    """Return the containers of training, serving and gateway pods: pod, restarts, image."""
    found = team.list("pods", "anneal.dev/stage in (train, serve, gateway)")
    running = [pod for pod in found if pod["status"]["phase"] == "Running"]
    return {
        pod["metadata"]["uid"]: (pod["metadata"]["name"], status["restartCount"], status["image"])
        for pod in running
        for status in pod["status"]["containerStatuses"]
    }


def looked_at_by(team: Kube, name: str, tag: str) -> None:
    """Wait until an operator with images of this tag has begun a new run; it then has looked at everything else."""
    team.apply(finetunejob(name, baseModel={"uri": "pvc://store/nowhere"}))
    team.wait("finetunejob", name, holds("Inspected", "False", "ModelNotFound"), 120, "inspected")
    (job,) = team.list("jobs", f"anneal.dev/finetunejob={name}")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["image"].endswith(f":{tag}")
    team.run("delete", "finetunejob", name)


def test_an_upgrade_and_its_way_back_touch_neither_a_run_nor_an_endpoint(
    operator: Kube, team: Kube, upgrade: list[str]
) -> None:
    tag = image(operator, "trainers").rpartition(":")[2]
    team.apply(finetunejob("model", workers={"nodes": 1}))
    team.wait("finetunejob", "model", holds("Complete"), 420, "Complete")
    team.apply(modeldeployment("served", "model"))
    before = team.wait("modeldeployment", "served", holds("Ready"), 300, "Ready")
    team.apply(group.job("running", steps=4 * group.STEPS))
    with group.observed(team, "running") as seen:
        seen.wait(3)
        everything = alive(team)
        assert {name.split("-")[0] for name, _, _ in everything.values()} == {"running", "served"}
        helm(*upgrade)
        looked_at_by(team, "after", TAG)
        assert alive(team) == everything
        helm("rollback", "anneal", "--wait")
        looked_at_by(team, "back", tag)
        assert alive(team) == everything
        assert seen.step < 4 * group.STEPS, "the run was over too soon to tell"
    done = team.wait("finetunejob", "running", holds("Complete"), 900, "Complete")
    assert [a["number"] for a in done["status"]["attempts"]] == [1]
    after: Json = team.get("modeldeployment", "served")
    assert [v["run"] for v in after["status"]["versions"]] == [v["run"] for v in before["status"]["versions"]]
    assert holds("Ready")(after)
