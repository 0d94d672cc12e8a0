"""A fine-tune and an endpoint whose model, data and artifacts are in a real S3 server, by the keys of a labelled Secret."""

import hashlib
import json
from collections.abc import Iterator

import pytest
import s3fs
from cluster import settings
from tests.cluster.conftest import finetunejob, modeldeployment, rows
from tests.cluster.kube import Json, Kube, condition, holds
from tests.cluster.s3_server import S3Server, s3_server
from tests.cluster.test_road import client
from tests.tiny_model import write_tiny_model

from anneal_api.artifacts import MANIFEST, Manifest

pytestmark = [pytest.mark.cluster, pytest.mark.full]
SECRET = {"secretRef": {"name": "s3-store"}}
TASKS = [{"name": name, "data": {"uri": f"s3://inputs/{name}.jsonl"}} for name in ("letters", "digits")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3"), settings.ADDRESS) as running:
        yield running


@pytest.fixture(scope="module")
def bucket(server: S3Server, team: Kube, tmp_path_factory: pytest.TempPathFactory) -> s3fs.S3FileSystem:
    """Buckets with a model and rows, and Secrets with the right keys and a wrong one."""
    filesystem, folder = server.filesystem(), tmp_path_factory.mktemp("inputs")
    write_tiny_model(folder / "base")
    (folder / "letters.jsonl").write_text(rows(240, "abcdefgh"))
    (folder / "digits.jsonl").write_text(rows(160, "0123456"))
    for name in ("inputs", "artifacts"):
        filesystem.mkdir(name)
    for path in (p for p in folder.rglob("*") if p.is_file()):
        filesystem.put_file(str(path), f"inputs/{path.relative_to(folder)}")
    team.apply(
        server.kubernetes_secret("s3-store"),
        server.kubernetes_secret("s3-wrong", AWS_SECRET_ACCESS_KEY="wrong"),
    )
    return filesystem


def over_s3(name: str, secret: str = "s3-store", **output: str) -> Json:
    reference = {"secretRef": {"name": secret}}
    return finetunejob(
        name,
        baseModel={"uri": "s3://inputs/base", **reference},
        tasks=TASKS,
        output={"uri": "s3://artifacts/anneal", **reference, **output},
    )


@pytest.fixture(scope="module")
def job(team: Kube, bucket: s3fs.S3FileSystem) -> Json:
    team.apply(over_s3("far", deletionPolicy="Delete"))
    return team.wait("finetunejob", "far", holds("Complete"), 480, "Complete")


def test_a_run_needs_no_claim_and_what_it_publishes_is_in_the_bucket(
    team: Kube, job: Json, bucket: s3fs.S3FileSystem
) -> None:
    assert all(float(s["tunedLoss"]) < float(s["baseLoss"]) for s in job["status"]["scores"])
    pods = team.list("pods", "anneal.dev/finetunejob=far")
    assert pods
    assert not any("persistentVolumeClaim" in volume for pod in pods for volume in pod["spec"]["volumes"])
    for name in ("dataset", "adapter", "evaluation", "merged"):
        artifact = job["status"]["artifacts"][name]
        assert artifact["uri"].startswith(f"s3://artifacts/anneal/{team.namespace}/")
        verify(bucket, artifact)


def verify(bucket: s3fs.S3FileSystem, artifact: Json) -> None:
    """Check that an artifact lies there as its digest says, file by file."""
    place = artifact["uri"].removeprefix("s3://")
    manifest = Manifest.model_validate_json(bucket.cat_file(f"{place}/{MANIFEST}"))
    assert manifest.digest == artifact["digest"]
    for file in manifest.files:
        assert hashlib.sha256(bucket.cat_file(f"{place}/{file.path}")).hexdigest() == file.sha256


def test_checkpoints_and_the_ledger_are_there_too(team: Kube, job: Json, bucket: s3fs.S3FileSystem) -> None:
    names = bucket.find(f"artifacts/anneal/{team.namespace}")
    assert any("/step-00000012/" in name for name in names), names
    ledgers = [name for name in names if "ledger" in name]
    assert sum(bucket.cat_file(name).count(b"\n") for name in ledgers) >= 12, names


def test_an_endpoint_is_built_from_it_and_answers(team: Kube, job: Json) -> None:
    made = modeldeployment("far", "far")
    made["spec"]["model"] |= SECRET
    team.apply(made)
    team.wait("modeldeployment", "far", holds("Ready"), 420, "Ready")
    chat = [{"role": "user", "content": "repeat 3 abcdef"}]
    with client(team, "far", 18081) as api:
        said = api.chat.completions.create(model="far", messages=chat, max_tokens=12, temperature=0)
    assert said.choices[0].message.content


def test_keys_that_the_store_refuses_are_told_before_any_accelerator(
    team: Kube, bucket: s3fs.S3FileSystem
) -> None:
    team.apply(over_s3("refused", "s3-wrong"))

    def told(found: Json) -> bool:
        return (
            condition(found, "Inspected")["status"] == "False"
            and "s3://" in condition(found, "Inspected")["message"]
        )

    found = team.wait("finetunejob", "refused", told, 120, "the refusal is told")
    assert not team.list("jobs", "anneal.dev/finetunejob=refused,anneal.dev/stage in (prepare, train)")
    print(json.dumps(condition(found, "Inspected")))
    team.run("delete", "finetunejob", "refused", "--wait=false")


def test_a_secret_that_nobody_labelled_is_refused_when_the_resource_is_written(
    team: Kube, server: S3Server
) -> None:
    plain = server.kubernetes_secret("plain")
    del plain["metadata"]["labels"]
    team.apply(plain)
    with pytest.raises(RuntimeError, match="kubectl label secret plain anneal.dev/use="):
        for _ in range(100):  # the API server looks at Secrets by a watch of its own
            team.run(
                "create", "--dry-run=server", "-f", "-", stdin=json.dumps(over_s3("unlabelled", "plain"))
            )


def test_deleting_takes_artifacts_out_of_the_bucket_when_asked(
    team: Kube, job: Json, bucket: s3fs.S3FileSystem
) -> None:
    team.run("delete", "modeldeployment", "far", "--wait=false")
    team.run("delete", "finetunejob", "far", "--timeout=180s")
    merged = job["status"]["artifacts"]["merged"]["uri"].removeprefix("s3://")
    assert not bucket.exists(f"{merged}/{MANIFEST}")
