"""A folder in Hugging Face layout: its config, and which shard holds which tensor. No torch here."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anneal_runtime import storage
from anneal_runtime.errors import Refused

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Folder:
    """What must lie in a model's folder, as its small files say."""

    config: dict[str, Any]
    shards: dict[str, str]
    """Shard of every tensor, by the tensor's name; empty when one file holds all."""

    @property
    def files(self) -> set[str]:
        """The weight files that must be there."""
        return set(self.shards.values()) or {SINGLE}

    def shard(self, tensor: str) -> str:
        """Return the file that holds `tensor`."""
        return self.shards.get(tensor, SINGLE)


def read(uri: str) -> Folder:
    """Return what the small files of the model at `uri` say, without fetching its weights.

    Raises:
        Refused: config.json is missing or not JSON, or a weight file is missing.
    """
    folder = Folder(
        config=_json(uri, CONFIG),
        shards=_json(uri, INDEX)["weight_map"] if storage.exists(storage.join(uri, INDEX)) else {},
    )
    missing = sorted(f for f in folder.files if not storage.exists(storage.join(uri, f)))
    if missing:
        raise Refused(
            "MissingWeights", f"{uri} lacks {', '.join(missing)}; copy the whole folder, or export it again"
        )
    return folder


def read_local(folder: Path) -> Folder:
    """As `read`, of a folder on this machine."""
    return read(f"file://{folder}")


def _json(uri: str, name: str) -> dict[str, Any]:
    filesystem, path = storage.resolve(storage.join(uri, name))
    if not filesystem.exists(path):
        raise Refused("InvalidModel", f"{uri} has no {name}; it must be a folder in Hugging Face layout")
    try:
        content: dict[str, Any] = json.loads(filesystem.cat_file(path))
    except ValueError as error:
        raise Refused("InvalidModel", f"{uri}/{name} is not JSON: {error}") from error
    return content
