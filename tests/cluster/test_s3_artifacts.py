"""Artifacts on a real S3 server, as pods publish and open them: whole or absent, first come first kept."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs
from tests.cluster.s3_server import S3Server, s3_server

from anneal_api.artifacts import MANIFEST, Producer
from anneal_api.runs import ENV_NEARBY
from anneal_runtime import artifacts, nearby, storage
from anneal_runtime.errors import Refused, StageError

pytestmark = pytest.mark.cluster
STORE = "s3://artifacts/anneal"
KEY = "a" * 64
PRODUCER = Producer(kind="FineTuneJob", name="job", uid="uid", stage="export")


@pytest.fixture(scope="session", autouse=True)
def kubeconfig() -> None:
    """Takes the place of the local cluster's: these tests need none."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3"), "127.0.0.1") as running:
        yield running


@pytest.fixture(autouse=True)
def bucket(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3fs.S3FileSystem]:
    """An empty bucket, and the environment of a pod."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    filesystem = server.filesystem()
    filesystem.mkdir("artifacts")
    yield filesystem
    filesystem.rm("artifacts", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


def publish(content: str, key: str = KEY) -> str:
    with artifacts.publishing(STORE, "team", "model", key, producer=PRODUCER, inputs={}) as made:
        (made.folder / "part").mkdir()
        (made.folder / "part" / "weights").write_text(content)
    return made.published.uri


def test_what_is_published_is_opened_and_verified(tmp_path: Path, bucket: s3fs.S3FileSystem) -> None:
    uri = publish("w" * 100_000)
    folder, manifest = artifacts.open_artifact(uri, tmp_path / "cache")
    assert (folder / "part" / "weights").read_text() == "w" * 100_000
    assert artifacts.identity(uri) == manifest.digest
    assert storage.exists(uri)
    bucket.pipe_file(f"{uri.removeprefix('s3://')}/part/weights", b"other")
    with pytest.raises(Refused, match="is not what was published"):
        artifacts.open_artifact(uri, tmp_path / "other")


def test_an_upload_that_ended_half_way_is_nothing_and_is_done_again(
    tmp_path: Path, bucket: s3fs.S3FileSystem
) -> None:
    bucket.pipe_file(f"artifacts/anneal/team/model/{KEY}/part/weights", b"half")
    uri = artifacts.uri_of(STORE, "team", "model", KEY)
    assert artifacts.reference(uri) is None
    assert publish("whole") == uri
    assert (artifacts.open_artifact(uri, tmp_path)[0] / "part" / "weights").read_text() == "whole"


def test_the_first_of_two_producers_stays(tmp_path: Path) -> None:
    started, done = threading.Barrier(2), threading.Event()

    def produce(content: str, last: bool) -> str:
        with artifacts.publishing(STORE, "team", "model", KEY, producer=PRODUCER, inputs={}) as made:
            (made.folder / "weights").write_text(content)
            started.wait(30)
            if last:
                assert done.wait(30)
        done.set()
        return made.published.digest

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(produce, "first", False), pool.submit(produce, "second", True)
        assert first.result() == second.result()
    folder, _ = artifacts.open_artifact(artifacts.uri_of(STORE, "team", "model", KEY), tmp_path)
    assert (folder / "weights").read_text() == "first"


def test_what_another_process_publishes_is_seen_by_one_that_has_looked_before(server: S3Server) -> None:
    uri = artifacts.uri_of(STORE, "team", "model", KEY)
    publish("other", "b" * 64)
    filesystem, path = storage.resolve(f"{STORE}/team/model")
    assert len(filesystem.ls(path)) == 1
    assert artifacts.reference(uri) is None
    server.filesystem().pipe_file(
        f"{path}/{KEY}/{MANIFEST}", filesystem.cat_file(f"{path}/{'b' * 64}/{MANIFEST}")
    )
    assert artifacts.reference(uri) is not None
    assert len(filesystem.ls(path)) == 2


def test_a_large_file_is_identified_by_its_ends(bucket: s3fs.S3FileSystem) -> None:
    size = 65 * 2**20
    body = bytearray(size)
    bucket.pipe_file("artifacts/base/weights", bytes(body))
    plain = artifacts.identity("s3://artifacts/base", sampled=True)
    body[-1] = 1
    bucket.pipe_file("artifacts/base/weights", bytes(body))
    assert artifacts.identity("s3://artifacts/base", sampled=True) != plain


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="s3://artifacts/nowhere does not exist"):
        storage.local("s3://artifacts/nowhere", tmp_path)


def test_keys_that_are_refused_are_no_absence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    s3fs.S3FileSystem.clear_instance_cache()
    fsspec.config.conf.clear()
    with pytest.raises((PermissionError, StageError)):
        artifacts.reference(artifacts.uri_of(STORE, "team", "model", KEY))


def test_keys_that_the_server_does_not_take_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(
        Refused, match="spec.output.uri: s3://artifacts/anneal: the store answers .*correct the keys"
    ):
        storage.check_access({"spec.output.uri": STORE})


@contextmanager
def node_with(uri: str, folder: Path) -> Iterator[str]:
    """Run what a node with weights runs, until it has the copy; yield its address."""
    command = [sys.executable, "-m", "anneal_runtime.nearby_server", str(folder), uri]
    address, wanted = f"http://127.0.0.1:{nearby.PORT}", nearby.listing(uri, *storage.resolve(uri))
    assert wanted is not None
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 60
        while not nearby.take(address, wanted, folder / "tried"):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield address
    finally:
        process.kill()
        process.wait()


def test_a_pod_takes_its_nodes_copy_as_long_as_it_is_what_the_store_holds(
    tmp_path: Path, bucket: s3fs.S3FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the store was read")

    uri = publish("w" * 100_000)
    with node_with(uri, tmp_path / "node") as address:
        monkeypatch.setenv(ENV_NEARBY, address)
        with monkeypatch.context() as store:
            store.setattr(s3fs.S3FileSystem, "_get_file", refuse)
            folder, _ = artifacts.open_artifact(uri, tmp_path / "pod")
            assert (folder / "part" / "weights").read_text() == "w" * 100_000
        bucket.pipe_file(f"{uri.removeprefix('s3://')}/part/weights", b"v" * 100_000)
        with pytest.raises(Refused, match="is not what was published"):
            artifacts.open_artifact(uri, tmp_path / "later")
