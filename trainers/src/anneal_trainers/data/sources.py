"""The rows of a task, streamed from any store: JSON lines, Parquet, a saved data set, or files of source code."""

import contextlib
import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from anneal_api.finetunejob import BaseModelSource, Data, Task
from anneal_runtime.errors import Refused
from anneal_runtime.storage import resolve
from anneal_trainers.corpus.languages import language
from anneal_trainers.data import readers
from anneal_trainers.data.formats import Row, WrongRow, detect, to_row

CODE_LIMIT = 8_000_000
"""Bytes of the largest file of source code that is read."""
WRONG = "wrongRow"


@dataclass(frozen=True)
class Found:
    """What stands in one place of a task's data: a row, or the reason why there is none and what is the matter."""

    file: str
    line: int
    row: Row | None = None
    reason: str = ""
    detail: str = ""


def base_uri(source: BaseModelSource) -> str:
    """Return the base model's URI; a revision of an hf:// model is part of it."""
    pinned = source.revision and source.uri.startswith("hf://") and "@" not in source.uri
    return f"{source.uri}@{source.revision}" if pinned else source.uri


def found(task: Task, data: Data) -> Generator[Found, None, None]:
    """Yield what stands in every place of the task's data, in order of file and line.

    Raises:
        Refused: a row is wrong and spec.data.wrongRows is fail; names file, line and what was expected.
    """
    places = _code(task) if task.data.format == "code" else _rows(task)
    for place in places:
        if place.reason == WRONG and data.wrong_rows == "fail":
            raise Refused(
                "InvalidRows",
                f"task {task.name}: {place.file}, line {place.line}: {place.detail}; correct the row, or set "
                "spec.data.wrongRows to drop",
            )
        yield place


def count(task: Task) -> int:
    """Return how many places the task's data has."""
    filesystem, path = resolve(task.data.uri)
    if task.data.format == "code":
        return len(_tree(filesystem, _existing(task, filesystem, path)))
    total = 0
    for file in task_files(task):
        with filesystem.open(file, "rb") as raw:
            total += readers.count(file, raw)
    return total


def task_files(task: Task) -> list[str]:
    """Return the paths of the task's files of rows within their filesystem, sorted.

    Raises:
        Refused: nothing is there, or nothing that holds rows.
    """
    uri = task.data.uri
    filesystem, path = resolve(uri)
    _existing(task, filesystem, path)
    if filesystem.isfile(path):
        files = [path] if path.endswith(readers.SUFFIXES) else []
    else:
        files = _saved(task, filesystem, path) or sorted(
            name for name in filesystem.find(path) if name.endswith(readers.SUFFIXES)
        )
    if not files:
        raise Refused(
            "DatasetNotFound",
            f"task {task.name}: {uri} holds no file ending in {', '.join(readers.SUFFIXES)} and no data set that "
            "was saved to disk; for a folder of source code set spec.tasks[].data.format to code",
        )
    return files


def _existing(task: Task, filesystem: Any, path: str) -> str:
    if not filesystem.exists(path):
        raise Refused(
            "DatasetNotFound",
            f"task {task.name}: {task.data.uri} does not exist; check spec.tasks[].data.uri",
        )
    return path


def _saved(task: Task, filesystem: Any, path: str) -> list[str]:
    """Return the files of a folder that datasets.save_to_disk wrote, none where it is no such folder."""
    if filesystem.exists(f"{path}/dataset_dict.json"):
        splits = json.loads(filesystem.cat_file(f"{path}/dataset_dict.json"))["splits"]
        raise Refused(
            "DatasetNotFound",
            f"task {task.name}: {task.data.uri} holds several data sets; name one of them in "
            f"spec.tasks[].data.uri: {', '.join(f'{task.data.uri}/{name}' for name in splits)}",
        )
    if not filesystem.exists(f"{path}/state.json"):
        return []
    state = json.loads(filesystem.cat_file(f"{path}/state.json"))
    return [f"{path}/{file['filename']}" for file in state.get("_data_files", [])]


def _rows(task: Task) -> Iterator[Found]:
    filesystem, _ = resolve(task.data.uri)
    shape = task.data.format
    for path in task_files(task):
        name = path.rsplit("/", 1)[-1]
        with filesystem.open(path, "rb") as raw, contextlib.closing(readers.values(path, raw)) as values:  # type: ignore[type-var]
            for number, value in values:
                try:
                    if isinstance(value, WrongRow):
                        raise value
                    shape = detect(value) if shape == "auto" else shape
                    yield Found(name, number, to_row(value, shape))
                except WrongRow as error:
                    yield Found(name, number, reason=WRONG, detail=str(error))


def _code(task: Task) -> Iterator[Found]:
    """Yield the files of a folder: those of a known language are rows."""
    filesystem, root = resolve(task.data.uri)
    _existing(task, filesystem, root)
    for path, size in _tree(filesystem, root):
        name = path.removeprefix(root).lstrip("/")
        if size > CODE_LIMIT:
            yield Found(name, 0, reason="tooLarge", detail=f"{size} bytes")
        else:
            yield _source_file(name, filesystem.cat_file(path))


def _source_file(name: str, content: bytes) -> Found:
    known = language(name, content[:256].decode("utf-8", "replace"))
    if known is None:
        return Found(name, 0, reason="unknownLanguage")
    if b"\0" in content:
        return Found(name, 0, reason="binary")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        return Found(name, 0, reason="notUtf8", detail=f"{error.reason} at byte {error.start}")
    if not text.strip():
        return Found(name, 0, reason="empty")
    return Found(name, 1, Row((), text, path=name, language=known))


def _tree(filesystem: Any, root: str) -> list[tuple[str, int]]:
    """Return path and size of every file below a folder, sorted; neither links nor what is hidden."""
    files, folders = [], [root]
    while folders:
        for info in filesystem.ls(folders.pop(), detail=True):
            hidden = info["name"].rsplit("/", 1)[-1].startswith(".")
            if hidden or info.get("islink"):
                continue
            if info["type"] == "directory":
                folders.append(info["name"])
            elif info["type"] == "file":
                files.append((info["name"], info["size"]))
    return sorted(files)
