"""Weights that the pod's own node holds already: asked for before the store.

A copy counts only while it is of what the store holds now. So it is asked for by a name made of the URI and of what the
store itself tells of every file (name, size, ETag or object id): a copy of files that were replaced since, or of a store
at another address, has another name and is not found. What is taken out of the answer are the files that the store lists,
each with its size, and nothing else.
"""

import hashlib
import http.client
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

PORT = 8095
_CONTENT_IDS = ("ETag", "blob_id", "created")
"""What changes with a file's content, as S3, the Hugging Face hub and fsspec's other stores tell it."""
_CONNECT_SECONDS = 2
_SILENCE_SECONDS = 30
"""How long bytes may stay away before the store is asked instead."""
CHUNK = 1 << 16
"""Bytes of a tar that are read and written at once."""


@dataclass(frozen=True)
class Listing:
    """What a store holds at a URI."""

    sizes: Mapping[str, int]
    """Path within the folder to bytes."""
    name: str
    """What a copy of exactly this is asked for by, hex."""


def listing(uri: str, filesystem: Any, path: str) -> Listing | None:
    """Return what the store holds in the folder `uri`.

    None for a file, for nothing, and for a store that tells nothing by which a change would be seen.
    """
    root = filesystem._strip_protocol(path)
    found = filesystem.find(path, detail=True)
    files = [(name.removeprefix(root).lstrip("/"), info) for name, info in sorted(found.items())]
    told = [(name, int(info.get("size") or 0), _content_id(info)) for name, info in files]
    if not told or not all(name and content for name, _, content in told):
        return None
    whole = json.dumps([uri.rstrip("/"), told])
    return Listing({name: size for name, size, _ in told}, hashlib.sha256(whole.encode()).hexdigest())


def _content_id(info: Mapping[str, Any]) -> str:
    return next((str(info[key]) for key in _CONTENT_IDS if info.get(key)), "")


def take(address: str, wanted: Listing, target: Path) -> bool:
    """Fill the folder `target` with the node's copy, asked for at `address`.

    False where there is none, or its answer breaks off or is not what the store lists; `target` is then good for nothing.
    """
    try:
        return _take(address, wanted, target)
    except Exception as error:  # whatever is wrong with the answer, the store has the files
        print(f"{address}: {error or type(error).__name__}; asking the store", file=sys.stderr, flush=True)
        return False


def _take(address: str, wanted: Listing, target: Path) -> bool:
    place = urlsplit(address)
    # Not by way of a proxy, which the environment may name for the store: the copy is on this node.
    with closing(http.client.HTTPConnection(place.netloc, timeout=_CONNECT_SECONDS)) as connection:
        connection.connect()
        connection.sock.settimeout(_SILENCE_SECONDS)
        connection.request("GET", f"/{wanted.name}")
        with connection.getresponse() as answer:
            if answer.status != http.client.OK:
                return False
            _unpack(answer, wanted.sizes, target)
    return True


def _unpack(stream: Any, sizes: Mapping[str, int], target: Path) -> None:
    """Write the files of a tar to `target`.

    Raises:
        tarfile.TarError: something else than the files of `sizes` is in it, or not all of them are.
    """
    missing = dict(sizes)
    with tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK) as archive:
        for member in archive:
            if not member.isreg() or missing.pop(member.name, None) != member.size:
                raise tarfile.ReadError(f"{member.name!r} is not what the store lists")
            _write(archive.extractfile(member), target, member.name)
    if missing:
        raise tarfile.ReadError(f"it ended before {sorted(missing)[0]}")


def _write(content: IO[bytes] | None, target: Path, name: str) -> None:
    place = Path(os.path.normpath(target / name))
    if content is None or not place.is_relative_to(target):
        raise tarfile.ReadError(f"{name!r} is outside of the folder")
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("wb") as stream:
        shutil.copyfileobj(content, stream, CHUNK)
