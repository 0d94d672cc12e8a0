"""The whole road on real nodes with a tiny model: FineTuneJob in, answer out, deletion behind it."""

import gzip
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
from tests.cluster.conftest import finetunejob, modeldeployment, upload
from tests.cluster.kube import Json, Kube, holds

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def job(team: Kube) -> Json:
    """A finished FineTuneJob."""
    team.apply(finetunejob("road"))
    return team.wait("finetunejob", "road", holds("Complete"), 420, "Complete")


@pytest.fixture(scope="module")
def deployment(team: Kube, job: Json) -> Json:
    """Its serving ModelDeployment."""
    team.apply(modeldeployment("road", "road"))
    return team.wait("modeldeployment", "road", holds("Ready"), 300, "Ready")


@contextmanager
def client(kube: Kube, service: str, port: int) -> Iterator[openai.OpenAI]:
    """Yield an OpenAI client of a Service."""
    command = ["kubectl", "-n", kube.namespace, "port-forward", f"service/{service}", f"{port}:80"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forward:
        try:
            assert forward.stdout is not None
            assert "Forwarding" in forward.stdout.readline()
            yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        finally:
            forward.terminate()


def read(kube: Kube, uri: str, path: str) -> Json:
    """Return a JSON file of a published artifact."""
    place = uri.replace("pvc://", "/mnt/anneal/")
    return dict(json.loads(kube.run("exec", "loader", "--", "cat", f"{place}/{path}")))


def test_every_task_improved_on_rows_it_never_saw(job: Json) -> None:
    scores = {s["name"]: (float(s["baseLoss"]), float(s["tunedLoss"])) for s in job["status"]["scores"]}
    assert set(scores) == {"letters", "digits"}
    assert all(tuned < base for base, tuned in scores.values()), scores
    assert job["status"]["progress"]["percent"] == 100


def test_two_pods_trained_on_two_nodes_of_the_training_pool(team: Kube, job: Json) -> None:
    pods = team.list("pods", "anneal.dev/stage=train,anneal.dev/finetunejob=road")
    nodes = {p["spec"]["nodeName"] for p in pods}
    assert len(pods) == len(nodes) == 2
    assert all(node.startswith("train-") for node in nodes)
    assert all(p["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1" for p in pods)


def test_what_was_made_is_named_by_digest(team: Kube, job: Json) -> None:
    artifacts = dict(job["status"]["artifacts"])
    assert artifacts.pop("report") == f"{artifacts['dataset']['uri']}/report.html"
    assert set(artifacts) == {"dataset", "adapter", "evaluation", "merged"}
    manifest = read(team, artifacts["merged"]["uri"], "manifest.json")
    assert manifest["kind"] == "model"
    assert manifest["producer"]["uid"] == job["metadata"]["uid"]
    assert all(re.fullmatch("sha256:[0-9a-f]{64}", a["digest"]) for a in artifacts.values())


def test_no_pod_holds_a_token_or_a_right_it_does_not_need(team: Kube, job: Json, deployment: Json) -> None:
    pods = [p for p in team.list("pods") if p["metadata"]["name"] != "loader"]
    tokens = [
        p["metadata"]["name"]
        for p in pods
        for volume in p["spec"]["volumes"]
        if any("serviceAccountToken" in s for s in volume.get("projected", {}).get("sources", []))
    ]
    assert pods
    assert all("gateway" in name for name in tokens), tokens


def test_the_gate_measured_and_passed(deployment: Json) -> None:
    version = deployment["status"]["versions"][0]
    assert 0 < float(version["gate"]["logitKL"]) < 0.5
    assert holds("GatePassed")(deployment)
    assert version["trafficPercent"] == 100


def test_it_answers_as_a_stream(team: Kube, deployment: Json) -> None:
    chat = [{"role": "user", "content": "repeat 3 abcdef"}]
    with client(team, "road", 18080) as api:
        assert [m.id for m in api.models.list()] == ["road"]
        chunks = list(
            api.chat.completions.create(
                model="road", messages=chat, stream=True, max_tokens=12, temperature=0
            )
        )
        whole = api.chat.completions.create(model="road", messages=chat, max_tokens=12, temperature=0)
    streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert streamed == whole.choices[0].message.content
    assert whole.usage.completion_tokens <= 12


def test_the_same_rows_are_prepared_and_trained_once(team: Kube, job: Json) -> None:
    team.apply(finetunejob("again", faultPolicy={"maxRestarts": 1}))
    again = team.wait("finetunejob", "again", holds("Complete"), 90, "Complete without training")
    assert again["status"]["artifacts"] == job["status"]["artifacts"]
    assert not team.list("jobs", "anneal.dev/stage=train,anneal.dev/finetunejob=again")


def test_another_dataset_needs_another_uri_and_nothing_else(team: Kube, tmp_path: Path) -> None:
    chats = (
        {"chat_rounds": [{"role": "human", "content": f"{n}+1"}, {"role": "bot", "content": f"{n + 1}"}]}
        for n in range(150)
    )
    with gzip.open(tmp_path / "sums.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(chat) + "\n" for chat in chats)
    upload(team, tmp_path, "data")
    job = finetunejob("other")
    job["spec"]["tasks"][0]["data"]["uri"] = "pvc://store/data/sums.jsonl.gz"
    team.apply(job)
    other = team.wait("finetunejob", "other", holds("Complete"), 300, "Complete")
    assert all(float(s["tunedLoss"]) < float(s["baseLoss"]) for s in other["status"]["scores"])


def test_deleting_takes_what_was_made_and_leaves_what_was_published(
    team: Kube, job: Json, deployment: Json
) -> None:
    team.run("delete", "finetunejob", "road")
    team.run("delete", "modeldeployment", "road")
    for kind in ("jobs", "deployments", "services", "pods", "configmaps"):
        team.wait_gone(kind, "anneal.dev/finetunejob=road", 120)
        team.wait_gone(kind, "anneal.dev/modeldeployment=road", 180)
    assert read(team, job["status"]["artifacts"]["merged"]["uri"], "manifest.json")


def test_deleting_takes_artifacts_too_when_asked(team: Kube) -> None:
    output = {"uri": "pvc://store/disposable", "deletionPolicy": "Delete"}
    team.apply(finetunejob("disposable", output=output))
    done = team.wait("finetunejob", "disposable", holds("Complete"), 420, "Complete")
    uri = done["status"]["artifacts"]["merged"]["uri"]
    team.run("delete", "finetunejob", "disposable", "--timeout=120s")
    with pytest.raises(RuntimeError, match="No such file"):
        read(team, uri, "manifest.json")
