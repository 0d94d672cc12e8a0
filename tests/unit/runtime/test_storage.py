"""URIs to filesystems."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from anneal_runtime import storage
from anneal_runtime.errors import Refused


def test_a_claim_is_a_folder_of_the_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANNEAL_VOLUMES", str(tmp_path))
    assert storage.resolve("pvc://claim/a/b")[1] == f"{tmp_path}/claim/a/b"
    assert storage.resolve("pvc://claim")[1] == f"{tmp_path}/claim"


@pytest.mark.parametrize("uri", ["pvc://claim/../other/x", "pvc://..", "pvc:///x", "pvc://./x"])
def test_a_path_stays_inside_its_claim(uri: str) -> None:
    with pytest.raises(Refused, match="inside the claim"):
        storage.resolve(uri)


def test_a_remote_folder_is_copied_once(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/bucket/model/config.json", b"{}")
    folder = storage.local("memory://bucket/model", tmp_path)
    assert (folder / "config.json").read_text() == "{}"
    memory.rm("/bucket/model/config.json")
    memory.pipe_file("/bucket/model/other", b"")
    assert storage.local("memory://bucket/model", tmp_path) == folder


def test_of_several_that_want_one_copy_one_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/shared/model/weights", b"w" * 1000)
    copies, start, get = [], threading.Barrier(3), type(memory).get

    def slowly(*arguments: Any, **options: Any) -> None:
        copies.append(1)
        time.sleep(0.1)
        get(*arguments, **options)

    def fetch(_: int) -> bytes:
        start.wait()
        return (storage.local("memory://shared/model", tmp_path) / "weights").read_bytes()

    monkeypatch.setattr(type(memory), "get", slowly)  # each thread has an instance of its own
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(fetch, range(3))) == [b"w" * 1000] * 3
    assert len(copies) == 1


def test_a_store_that_does_not_let_one_in_is_told_by_its_field(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def forbidden(*_: Any, **__: Any) -> bool:
        raise PermissionError("Forbidden")

    storage.check_access({"spec.output.uri": "memory://nothing/here"})
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "exists", forbidden)
    with pytest.raises(
        Refused, match="spec.output.uri: memory://bucket: the store answers Forbidden; correct the keys"
    ):
        storage.check_access({"spec.output.uri": "memory://bucket"})
