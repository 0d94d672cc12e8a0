"""Publishing and opening artifacts: a folder appears whole, with its manifest, or not at all.

On a filesystem the folder is written beside its target, synced and renamed. On an object store
files go to their final names first and the manifest last; readers ask for the manifest.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from pydantic import ValidationError

from anneal_api.artifacts import MANIFEST, File, Kind, Manifest, Producer
from anneal_api.base import ArtifactRef
from anneal_api.runs import ENV_POD_UID
from anneal_runtime.errors import Refused
from anneal_runtime.storage import flush_to_disk, is_local, join, local, resolve

_CHUNK = 1 << 20
_SAMPLED_ABOVE = 64 * _CHUNK


@dataclass
class Publication:
    """An artifact in the making: fill `folder`, note facts in `metadata`; `ref` is set on a clean exit."""

    folder: Path
    metadata: dict[str, Any] = field(default_factory=dict)
    ref: ArtifactRef | None = None

    @property
    def published(self) -> ArtifactRef:
        """The reference, once published."""
        assert self.ref is not None, "published is read after the with block"
        return self.ref


def uri_of(store: str, namespace: str, kind: Kind, key: str) -> str:
    """Return where the artifact with this key lies."""
    return join(store, namespace, kind, key)


def published(uri: str) -> Manifest | None:
    """Return the manifest at `uri`, or None when nothing whole lies there.

    Raises:
        Refused: there is a manifest and it is not one of ours.
    """
    filesystem, path = resolve(join(uri, MANIFEST))
    if not filesystem.exists(path):
        return None
    try:
        return Manifest.model_validate_json(filesystem.cat_file(path))
    except ValidationError as error:
        raise Refused("InvalidManifest", f"{uri}/{MANIFEST} is not a manifest of Anneal: {error}") from error


def reference(uri: str) -> ArtifactRef | None:
    """Return uri and digest of the artifact at `uri`, or None when nothing is published there."""
    manifest = published(uri)
    return ArtifactRef(uri=uri, digest=manifest.digest) if manifest else None


@contextmanager
def publishing(
    store: str,
    namespace: str,
    kind: Kind,
    key: str,
    *,
    producer: Producer,
    inputs: dict[str, str],
) -> Iterator[Publication]:
    """Yield a folder to fill, and publish it under its key when the block ends without an error.

    Two producers of one key are harmless: the first whole copy stays, the other is thrown away.
    """
    uri = uri_of(store, namespace, kind, key)
    with publishing_at(uri, kind, key, producer=producer, inputs=inputs) as publication:
        yield publication


@contextmanager
def publishing_at(
    uri: str, kind: Kind, key: str, *, producer: Producer, inputs: dict[str, str]
) -> Iterator[Publication]:
    """As `publishing`, at a place of the caller's choice (a base model in the user's own folder)."""
    folder = _scratch(uri)
    try:
        publication = Publication(folder)
        yield publication
        manifest = Manifest(
            kind=kind,
            key=key,
            producer=producer,
            inputs=inputs,
            files=_files(folder),
            metadata=publication.metadata,
        )
        publication.ref = _commit(uri, folder, manifest)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def open_artifact(uri: str, cache: Path) -> tuple[Path, Manifest]:
    """Return a local folder with the artifact's files, and its manifest; every file is verified.

    Raises:
        Refused: nothing is published there, or a file does not match the manifest.
    """
    manifest = published(uri)
    if manifest is None:
        raise Refused(
            "NotPublished", f"{uri} holds no {MANIFEST}; the stage that publishes it has not finished"
        )
    folder = local(uri, cache)
    for file in manifest.files:
        verify(folder, file, uri)
    return folder, manifest


def verify(folder: Path, file: File, uri: str) -> None:
    """Raise Refused unless `file` lies in `folder` with the size and digest it was published with."""
    path = folder / file.path
    if not path.is_file():
        raise Refused("CorruptArtifact", f"{uri}: {file.path} is missing; delete the folder to make it again")
    if path.stat().st_size != file.size or sha256(path) != file.sha256:
        raise Refused(
            "CorruptArtifact",
            f"{uri}: {file.path} is not what was published; delete the folder to make it again",
        )


def identity(uri: str, *, sampled: bool = False) -> str:
    """Return the digest that stands for an input file or folder.

    A published artifact is its manifest's digest. Any other folder is the digest over names, sizes and
    contents of what is not hidden (nor in a hidden folder such as .git). With `sampled`, which is meant for weights, only
    the first and the last MiB of files above 64 MiB are read, so that a folder with a 33B model takes seconds.

    Raises:
        Refused: nothing is there.
    """
    filesystem, path = resolve(uri)
    if not filesystem.exists(path):
        raise Refused("NotFound", f"{uri} does not exist; check the path and the claim or bucket it names")
    if filesystem.isfile(path):
        return _digest([(Path(path).name, _content(filesystem, path, filesystem.size(path), sampled))])
    if (manifest := published(uri)) is not None:
        return manifest.digest
    found = filesystem.find(path, detail=True)
    inner = {name.removeprefix(path).lstrip("/"): info for name, info in sorted(found.items())}
    return _digest(
        [
            (name, _content(filesystem, info["name"], info["size"], sampled))
            for name, info in inner.items()
            if not is_hidden(name)
        ]
    )


def is_hidden(path: str) -> bool:
    """Whether a path within a folder is hidden, or lies in what is."""
    return any(part.startswith(".") for part in path.split("/"))


def sha256(path: Path) -> str:
    """Return the hex sha256 of a local file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _content(filesystem: Any, path: str, size: int, sampled: bool) -> str:
    digest = hashlib.sha256(str(size).encode())
    if sampled and size > _SAMPLED_ABOVE:
        digest.update(filesystem.cat_file(path, start=0, end=_CHUNK))
        digest.update(filesystem.cat_file(path, start=size - _CHUNK, end=size))
        return digest.hexdigest()
    with filesystem.open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _digest(entries: list[tuple[str, str]]) -> str:
    lines = "".join(f"{name}\0{content}\n" for name, content in entries)
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def _scratch(uri: str) -> Path:
    if not is_local(uri):
        return Path(mkdtemp(prefix="artifact-"))
    target = Path(resolve(uri)[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    owner = os.environ.get(ENV_POD_UID) or f"pid-{os.getpid()}"
    return Path(mkdtemp(prefix=f".{target.name[:16]}-{owner}-", dir=target.parent))


def _files(folder: Path) -> list[File]:
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    return [
        File(path=p.relative_to(folder).as_posix(), size=p.stat().st_size, sha256=sha256(p)) for p in paths
    ]


def _commit(uri: str, folder: Path, manifest: Manifest) -> ArtifactRef:
    if (ours := reference(uri)) is not None:
        return ours
    (folder / MANIFEST).write_bytes(manifest.dump())
    if is_local(uri):
        _rename(folder, Path(resolve(uri)[1]))
    else:
        _upload(folder, uri, manifest)
    winner = reference(uri)
    assert winner is not None, f"{uri} was published and is gone"
    return winner


def _rename(folder: Path, target: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        path.chmod(0o755 if path.is_dir() else 0o644)  # writers differ, and readers run as other users
        flush_to_disk(path)
    try:
        folder.rename(target)
    except OSError:
        # A folder is already there: another producer won, or somebody's own files are in the way.
        if not (target / MANIFEST).exists():
            raise Refused(
                "PathInUse", f"{target} holds files that Anneal did not publish; move them away"
            ) from None
    flush_to_disk(target.parent)


def _upload(folder: Path, uri: str, manifest: Manifest) -> None:
    filesystem, path = resolve(uri)
    for file in manifest.files:
        filesystem.put_file(str(folder / file.path), f"{path}/{file.path}")
    filesystem.pipe_file(f"{path}/{MANIFEST}", manifest.dump())
