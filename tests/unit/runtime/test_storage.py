"""URIs to filesystems."""

from pathlib import Path

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
