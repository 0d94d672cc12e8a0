"""A pod takes its node's copy of weights over real HTTP, and goes to the store whenever that is not exactly it."""

import http.client
import io
import os
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

from anneal_api.runs import ENV_NEARBY
from anneal_runtime import nearby, nearby_server, storage
from anneal_runtime.errors import Refused, TryAgain

FILES = {"config.json": b"{}", "part/weights": b"w" * 100_000, "empty": b""}
Stored = Callable[..., str]


@pytest.fixture
def stored(request: pytest.FixtureRequest) -> Iterator[Stored]:
    """Puts files into a store and returns their folder's URI."""
    memory = fsspec.filesystem("memory")
    root = request.node.originalname

    def put(files: dict[str, bytes] = FILES, folder: str = "model") -> str:
        for name, content in files.items():
            memory.pipe_file(f"/{root}/{folder}/{name}", content)
        return f"memory://{root}/{folder}"

    put({"other": b""}, "unrelated")
    yield put
    memory.rm(f"/{root}", recursive=True)


@contextmanager
def running(server: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a server answer, and tell pods that it is their node's."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv(ENV_NEARBY, f"http://127.0.0.1:{server.server_address[1]}")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[nearby_server.Server]:
    server = nearby_server.Server(("127.0.0.1", 0))
    with running(server, monkeypatch):
        yield server


def copy_to(node: nearby_server.Server, uri: str, folder: Path) -> None:
    made = nearby_server.copy(uri, folder)
    node.copies[made.listed.name] = made


def taken(uri: str, cache: Path) -> dict[str, bytes]:
    """Return what a pod gets."""
    folder = storage.local(uri, cache)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def nothing_from_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the store was read")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "get", refuse)


def test_the_nodes_copy_is_taken(
    stored: Stored, node: nearby_server.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = stored()
    copy_to(node, uri, tmp_path / "node")
    nothing_from_the_store(monkeypatch)
    assert taken(uri, tmp_path / "pod") == FILES
    assert taken(f"{uri}/", tmp_path / "second") == FILES


def test_what_is_not_copied_or_not_yet_comes_from_the_store(
    stored: Stored, node: nearby_server.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, unlisted = stored(), stored({"a": b"a"}, "unlisted")
    assert taken(uri, tmp_path / "early") == FILES
    copy_to(node, uri, tmp_path / "node")
    assert taken(unlisted, tmp_path / "pod") == {"a": b"a"}
    nothing_from_the_store(monkeypatch)
    assert taken(uri, tmp_path / "late") == FILES


def test_a_copy_of_what_the_store_no_longer_holds_is_not_taken(
    stored: Stored, node: nearby_server.Server, tmp_path: Path
) -> None:
    uri = stored()
    copy_to(node, uri, tmp_path / "node")
    stored({"part/weights": b"v" * 100_000})
    assert taken(uri, tmp_path / "pod")["part/weights"] == b"v" * 100_000


def test_a_file_is_not_asked_for_and_comes_from_the_store(
    stored: Stored, node: nearby_server.Server, tmp_path: Path
) -> None:
    assert storage.local(f"{stored()}/config.json", tmp_path).read_bytes() == b"{}"


@pytest.mark.parametrize(
    "path", ["", "..", "%2e%2e/secret", "0" * 64, "memory://bucket/model", "model/config.json"]
)
def test_nothing_but_whole_copies_is_handed_out(
    path: str, stored: Stored, node: nearby_server.Server, tmp_path: Path
) -> None:
    copy_to(node, stored(), tmp_path / "node")
    assert answer(node, path) == (404, b"")
    assert answer(node, "healthz") == (200, b"")


def answer(node: nearby_server.Server, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", int(node.server_address[1]), timeout=10)
    try:
        connection.request("GET", f"/{path}")
        with connection.getresponse() as said:
            return said.status, said.read()
    finally:
        connection.close()


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))
    return whole.getvalue()


def member(name: str, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.size = len(content)
    for key, value in fields.items():
        setattr(made, key, value)
    return made, content


WHOLE = [member(name, content) for name, content in FILES.items()]
OUTSIDE = "/tmp/anneal-nearby-outside"
HOSTILE = {
    "breaks off in a file": tar(*WHOLE)[:20_000],
    "ends before a file": tar(*WHOLE[:2]),
    "ends at once": b"",
    "no tar": b"<html>" * 1000,
    "absolute": tar(member(OUTSIDE, b"x"), *WHOLE),
    "climbs": tar(member("../climbed", b"x"), *WHOLE),
    "link": tar(member("config.json", type=tarfile.SYMTYPE, linkname="/etc/passwd"), *WHOLE[1:]),
    "hard link": tar(WHOLE[0], member("empty", type=tarfile.LNKTYPE, linkname="config.json"), WHOLE[1]),
    "folder as a link": tar(member("part", type=tarfile.SYMTYPE, linkname=".."), *WHOLE),
    "device": tar(member("empty", type=tarfile.CHRTYPE), *WHOLE[:2]),
    "unlisted": tar(*WHOLE, member("run.py", b"x")),
    "twice": tar(*WHOLE, WHOLE[0]),
    "absurd time": tar(member("config.json", b"{}", pax_headers={"mtime": "1e400"}), *WHOLE[1:]),
    "other size": tar(member("config.json", b"{} "), *WHOLE[1:]),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_an_answer_that_is_not_the_stores_files_is_thrown_away(
    body: bytes, stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = stored()
    with running(HTTPServer(("127.0.0.1", 0), handler(body)), monkeypatch):
        assert taken(uri, tmp_path / "pod") == FILES
    assert not Path(OUTSIDE).exists()
    assert not list(tmp_path.rglob("climbed"))
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


def test_the_same_answer_without_its_fault_is_taken(
    stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = stored()
    nothing_from_the_store(monkeypatch)
    with running(HTTPServer(("127.0.0.1", 0), handler(tar(*WHOLE))), monkeypatch):
        assert taken(uri, tmp_path / "pod") == FILES


@pytest.mark.parametrize("name", [OUTSIDE, "../climbed", "part/../../climbed"])
def test_a_store_whose_names_lead_out_of_the_folder_is_not_followed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = nearby.Listing({name: 1}, "copy")
    with running(HTTPServer(("127.0.0.1", 0), handler(tar(member(name, b"x")))), monkeypatch):
        assert not nearby.take(os.environ[ENV_NEARBY], listed, tmp_path / "pod")
    assert not Path(OUTSIDE).exists()
    assert not list(tmp_path.rglob("climbed"))


def test_what_comes_with_a_refusal_is_no_copy(
    stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, forged = stored(), tar(WHOLE[0], member("part/weights", b"x" * 100_000), WHOLE[2])
    with running(HTTPServer(("127.0.0.1", 0), handler(forged, 404)), monkeypatch):
        assert taken(uri, tmp_path / "pod") == FILES


def handler(body: bytes, status: int = 200) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, *_: object) -> None:
            pass

    return Handler


def test_a_node_that_is_away_or_silent_is_not_waited_for(
    stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = stored()
    monkeypatch.setattr(nearby, "_SILENCE_SECONDS", 0.05)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        monkeypatch.setenv(ENV_NEARBY, f"http://127.0.0.1:{deaf.getsockname()[1]}")
        assert taken(uri, tmp_path / "refused") == FILES
        deaf.listen()
        assert taken(uri, tmp_path / "silent") == FILES


def test_one_who_breaks_off_leaves_the_server_to_the_others(
    stored: Stored, node: nearby_server.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = stored({"weights": b"w" * 20_000_000})
    copy_to(node, uri, tmp_path / "node")
    (name,) = node.copies
    with socket.create_connection(("127.0.0.1", int(node.server_address[1]))) as hasty:
        hasty.sendall(f"GET /{name} HTTP/1.0\r\n\r\n".encode())
        assert hasty.recv(100)
    nothing_from_the_store(monkeypatch)
    assert len(taken(uri, tmp_path / "pod")["weights"]) == 20_000_000


def test_what_fails_is_tried_again_later_and_keeps_none_waiting(
    stored: Stored, node: nearby_server.Server, tmp_path: Path
) -> None:
    uri, slept = stored(), []
    late = uri.replace("model", "late")

    def sleep(seconds: float) -> None:
        slept.append((seconds, len(node.copies)))
        if len(slept) == 3:
            stored({"a": b"a"}, "late")

    nearby_server.fill(node.copies, [late, uri], tmp_path, sleep)
    assert slept == [(5, 1), (10, 1), (20, 1)]
    assert len(node.copies) == 2
    delays = nearby_server.waits()
    assert [next(delays) for _ in range(9)] == [5, 10, 20, 40, 80, 160, 300, 300, 300]


@pytest.mark.parametrize("fault", ["the store's files change", "a file does not come"])
def test_a_copy_that_is_not_what_the_store_lists_is_none(
    fault: str, stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, kind = stored(), type(fsspec.filesystem("memory"))
    get = kind.get

    def get_badly(filesystem: Any, path: str, target: str, **options: Any) -> None:
        get(filesystem, path, target, **options)
        if fault == "a file does not come":
            Path(target, "config.json").unlink()
        else:
            stored({"config.json": b"[]"})

    monkeypatch.setattr(kind, "get", get_badly)
    with pytest.raises(TryAgain, match="is not what the store lists"):
        nearby_server.copy(uri, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["/config.json", "/nothing"])
def test_only_a_folder_is_copied(what: str, stored: Stored, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no folder with files"):
        nearby_server.copy(stored() + what, tmp_path)
