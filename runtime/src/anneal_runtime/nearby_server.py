"""`python -m anneal_runtime.nearby_server FOLDER URI...`: copies artifacts to a node, for the pods of that node.

Each URI is copied whole once, from then on a copy is handed out as a tar to who asks for its name (`nearby.Listing`).
Paths are looked up among the names of whole copies and nowhere else, so nothing but what the command line names is ever
handed out.
"""

import argparse
import shutil
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from anneal_runtime import nearby, storage
from anneal_runtime.errors import Refused, TryAgain

HEALTH = "/healthz"
_FIRST_WAIT, _LONGEST_WAIT = 5.0, 300.0
"""Seconds between two tries to copy what could not be copied."""


@dataclass(frozen=True)
class Copy:
    """A whole copy of what a store listed."""

    listed: nearby.Listing
    folder: Path


class Server(ThreadingHTTPServer):
    """Hands out `copies`, by name; they may be added to while it runs."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int]) -> None:
        self.copies: dict[str, Copy] = {}
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 60
    """Seconds after which one who neither asks nor reads is left."""

    def do_GET(self) -> None:
        copy = self.server.copies.get(self.path.removeprefix("/"))
        self.send_response(HTTPStatus.OK if copy or self.path == HEALTH else HTTPStatus.NOT_FOUND)
        self.end_headers()
        if copy:
            self._send(copy)

    def _send(self, copy: Copy) -> None:
        try:
            with tarfile.open(fileobj=self.wfile, mode="w|", bufsize=nearby.CHUNK) as archive:
                for name in copy.listed.sizes:
                    archive.add(copy.folder / name, arcname=name, recursive=False)
        except OSError as error:
            self.log_message("%s: broken off: %s", copy.folder, error)
        else:
            self.log_message("%s: handed out", copy.folder)

    def log_request(self, *_: object) -> None:
        """Say nothing: probes would fill the log."""


def copy(uri: str, cache: Path) -> Copy:
    """Return a whole copy of the folder `uri` under `cache`.

    Raises:
        Refused: there is no folder, or the store tells nothing by which a change would be seen.
        TryAgain: it changed while it was copied, or not all of it came.
    """
    filesystem, path = storage.resolve(uri)
    listed = nearby.listing(uri, filesystem, path)
    if listed is None:
        raise Refused(
            "NoFolder", f"{uri} is no folder with files; name the folder of an artifact or of a model"
        )
    own = cache / listed.name  # URIs of two schemes may share a path
    folder = storage.local(uri, own)
    if nearby.listing(uri, filesystem, path) != listed or not _whole(folder, listed):
        shutil.rmtree(own)
        raise TryAgain("Changed", f"what was copied of {uri} is not what the store lists")
    return Copy(listed, folder)


def _whole(folder: Path, listed: nearby.Listing) -> bool:
    files = {folder / name: size for name, size in listed.sizes.items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in files.items())


def waits() -> Iterator[float]:
    """Yield growing delays, seconds, without end."""
    wait = _FIRST_WAIT
    while True:
        yield wait
        wait = min(2 * wait, _LONGEST_WAIT)


def fill(
    copies: dict[str, Copy], uris: Sequence[str], cache: Path, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Copy all of `uris`, one after the other; those that fail are tried again after all others."""
    left = list(uris)
    for wait in waits():
        left = [uri for uri in left if not _added(copies, uri, cache)]
        if not left:
            return
        sleep(wait)


def _added(copies: dict[str, Copy], uri: str, cache: Path) -> bool:
    try:
        made = copy(uri, cache)
    except Exception as error:  # every store fails in its own ways, and none may end the others' copies
        print(f"{uri}: not copied yet: {error or type(error).__name__}", file=sys.stderr, flush=True)
        return False
    copies[made.listed.name] = made
    print(f"{uri}: copied, {sum(made.listed.sizes.values())} bytes", file=sys.stderr, flush=True)
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    """Copy and hand out, until the process is ended."""
    parser = argparse.ArgumentParser(prog="python -m anneal_runtime.nearby_server", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the copies lie; it is emptied first")
    parser.add_argument("uris", nargs="+", help="folders to copy, s3:// or hf://")
    options = parser.parse_args(arguments)
    # Whether what an earlier process left is whole, and still what the store holds, nobody knows.
    shutil.rmtree(options.folder, ignore_errors=True)
    with Server(("", nearby.PORT)) as server:
        filling = (server.copies, options.uris, options.folder)
        threading.Thread(target=fill, args=filling, daemon=True).start()
        server.serve_forever()


if __name__ == "__main__":
    main()
