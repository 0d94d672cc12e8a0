"""Storage by URI, through fsspec: pvc://claim/path, file:///path, s3://bucket/path, hf://owner/model@revision."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec

from anneal_api.runs import ENV_NEARBY, ENV_VOLUMES, VOLUME_ROOT
from anneal_runtime import nearby
from anneal_runtime.errors import Refused

_LOCAL = ("pvc", "file")


def resolve(uri: str) -> tuple[Any, str]:
    """Return the fsspec filesystem of `uri` and the path in it.

    A claim named by pvc:// is a folder under $ANNEAL_VOLUMES, where the operator mounts it.

    Raises:
        Refused: a pvc:// path climbs out of its claim.
    """
    scheme, _, path = uri.partition("://")
    if scheme == "pvc":
        return fsspec.filesystem("file"), str(_claim_path(uri, path))
    if scheme == "file":
        return fsspec.filesystem("file"), path
    # What other pods have published since is seen: a listing that is remembered would hide it.
    return fsspec.filesystem(scheme, use_listings_cache=False), path


def _claim_path(uri: str, path: str) -> Path:
    root = Path(os.environ.get(ENV_VOLUMES, VOLUME_ROOT))
    claim = path.split("/", 1)[0]
    full = Path(os.path.normpath(root / path))
    if claim in ("", ".", "..") or not full.is_relative_to(root / claim):
        raise Refused("InvalidUri", f"{uri}: the path must stay inside the claim; use pvc://claim/folder")
    return full


def is_local(uri: str) -> bool:
    """Whether `uri` is a path of this machine."""
    return uri.partition("://")[0] in _LOCAL


def flush_to_disk(path: Path) -> None:
    """Return when a file's content, or the names in a folder, would outlive the machine."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def exists(uri: str) -> bool:
    """Whether there is a file or folder at `uri`."""
    filesystem, path = resolve(uri)
    return bool(filesystem.exists(path))


def check_access(fields: Mapping[str, str]) -> None:
    """Find out early whether the stores let this pod in; `fields` are URIs by the field that names them.

    Raises:
        Refused: a store answers that these keys, or their absence, are not enough.
    """
    for field, uri in fields.items():
        try:
            exists(uri)
        except PermissionError as error:
            raise Refused(
                "StorageForbidden",
                f"{field}: {uri}: the store answers {error}; correct the keys in the Secret that is named beside it, or "
                "what they may do",
            ) from error


def local(uri: str, cache: Path) -> Path:
    """Return a local path with the content of `uri`: the path itself, or a whole copy under `cache`.

    Of several processes of a pod that ask for one copy, one makes it and the others wait. Where the node has a copy of
    what the store holds, it is made of that (`nearby`).

    Raises:
        Refused: nothing is there.
    """
    filesystem, path = resolve(uri)
    if not filesystem.exists(path):
        raise Refused("NotFound", f"{uri} does not exist; check the path and the claim or bucket it names")
    if is_local(uri):
        return Path(path)
    target = cache / path.strip("/").replace("@", "_")
    with _locked(target.with_name(target.name + ".lock")):
        if not target.exists():
            partial = target.with_name(target.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            if not _taken_nearby(uri, partial):
                shutil.rmtree(partial, ignore_errors=True)
                filesystem.get(path, str(partial), recursive=bool(filesystem.isdir(path)))
            partial.rename(target)
    return target


def _taken_nearby(uri: str, target: Path) -> bool:
    address = os.environ.get(ENV_NEARBY)
    if not address:
        return False
    wanted = nearby.listing(uri, *resolve(uri))
    return wanted is not None and nearby.take(address, wanted, target)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # let go when the file is closed, however the process ends
        yield


def join(uri: str, *parts: str) -> str:
    """Return `uri` with `parts` appended as path segments."""
    return "/".join([uri.rstrip("/"), *parts])
