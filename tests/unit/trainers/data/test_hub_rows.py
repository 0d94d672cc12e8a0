"""Rows by hf://, through Hugging Face's own client, from a server that answers as the hub does."""

import gzip
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fsspec.config
import huggingface_hub
import pyarrow
import pytest
from pyarrow import parquet

from anneal_api.finetunejob import Data, Task
from anneal_runtime.artifacts import identity
from anneal_runtime.errors import Refused
from anneal_trainers.data import sources

REPO, REVISION = "owner/name", "v1"
LINES = b"".join(json.dumps({"text": f"row {number}"}).encode() + b"\n" for number in range(5))
LISTING, CONTENT = f"/api/datasets/{REPO}/tree/{REVISION}", f"/datasets/{REPO}/resolve/{REVISION}/"


def _table() -> bytes:
    out = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": ["table"]}), out)
    return out.getvalue()


FILES = {
    ".gitattributes": b"*.parquet filter=lfs\n",
    "README.md": b"# Rows\n",
    "code/x.py": b"x = 1\n",
    "data/a.jsonl": LINES,
    "data/c.parquet": _table(),
    "data/inner/b.jsonl.gz": gzip.compress(LINES),
}


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        inner = unquote(path.removeprefix(LISTING)).strip("/")
        if path == f"/api/datasets/{REPO}/revision/{REVISION}":
            self._say(json.dumps({"id": REPO, "sha": "0" * 40}).encode())
        elif path.startswith(LISTING) and (entries := _entries(inner, "recursive=true" in query.lower())):
            self._say(json.dumps(entries).encode())
        elif path.startswith(CONTENT):
            self._part(FILES[unquote(path.removeprefix(CONTENT))])
        else:
            missing = "Entry" if path.startswith(LISTING) else "Revision" if REPO in path else "Repo"
            self._say(b"", 404, {"X-Error-Code": f"{missing}NotFound"})

    def _part(self, content: bytes) -> None:
        begin, _, end = self.headers.get("Range", "bytes=-").removeprefix("bytes=").partition("-")
        asked = content[int(begin or 0) : int(end) + 1 if end else None]
        where = {"Content-Range": f"bytes {begin}-{end}/{len(content)}"} if begin else {}
        self._say(asked, 206 if begin else 200, where)

    def _say(self, content: bytes, status: int = 200, headers: dict[str, str] = {}) -> None:  # noqa: B006
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


def _entries(folder: str, recursive: bool) -> list[dict[str, Any]]:
    """Return what the hub lists of a folder."""
    prefix = f"{folder}/" if folder else ""
    inner = {name: content for name, content in FILES.items() if name.startswith(prefix)}
    above = {str(each) for name in inner for each in Path(name).parents} - {".", folder}
    found = [{"type": "file", "path": n, "size": len(c), "oid": "0" * 40} for n, c in inner.items()]
    found += [
        {"type": "directory", "path": name, "oid": "1" * 40} for name in above if name.startswith(prefix)
    ]
    return [each for each in found if recursive or "/" not in str(each["path"]).removeprefix(prefix)]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of a data set."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        endpoint = {"endpoint": f"http://127.0.0.1:{server.server_address[1]}"}
        monkeypatch.setitem(fsspec.config.conf, "hf", endpoint)
        yield f"hf://datasets/{REPO}@{REVISION}"
        huggingface_hub.close_session()
        server.shutdown()
        thread.join()


def task(uri: str, shape: str = "auto") -> Task:
    return Task.model_validate({"name": "t", "data": {"uri": uri, "format": shape}})


def test_rows_of_every_kind_are_found_under_a_revision(hub: str) -> None:
    found = list(sources.found(task(hub), Data()))
    assert [(each.file, each.line) for each in found] == [
        *(("data/a.jsonl", line) for line in range(1, 6)),
        ("data/c.parquet", 1),
        *(("data/inner/b.jsonl.gz", line) for line in range(1, 6)),
    ]
    assert [each.row.text for each in found[4:7] if each.row] == ["row 4", "table", "row 0"]
    assert sources.count(task(f"{hub}/data/inner")) == 5


def test_a_part_of_a_file_and_code_are_read(hub: str) -> None:
    one = task(f"{hub}/data/a.jsonl")
    (file,) = sources.files(one)
    half = replace(file, begin=file.size // 2, end=file.size)
    assert [each.row.text for each in sources.found(one, Data(), [half]) if each.row] == ["row 3", "row 4"]
    (code,) = sources.found(task(f"{hub}/code", "code"), Data())
    assert (code.file, code.row and code.row.text) == ("x.py", "x = 1\n")


def test_data_there_is_named_as_the_same_files_are_here(hub: str, tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert identity(f"{hub}/data") == identity(f"file://{tmp_path}/data")


@pytest.mark.parametrize("other", [f"hf://datasets/{REPO}@v2/data", "hf://datasets/owner/other"])
def test_what_is_not_there_is_refused(hub: str, other: str) -> None:
    with pytest.raises(Refused, match=f"{other} does not exist"):
        sources.files(task(other))
