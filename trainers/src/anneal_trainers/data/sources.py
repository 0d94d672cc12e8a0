"""The rows of a task, streamed from any store: JSON lines, Parquet, a saved data set, or files of source code."""

import contextlib
import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from anneal_api.finetunejob import BaseModelSource, Data, DataFormat, Task
from anneal_runtime.artifacts import is_hidden
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


@dataclass(frozen=True)
class SourceFile:
    """A file of a task's data, or of a divisible one the lines that begin in a range of its bytes."""

    path: str
    """Within its filesystem."""
    size: int
    """Of the whole file, in bytes."""
    divisible: bool = False
    begin: int = 0
    end: int | None = None

    @property
    def is_cut(self) -> bool:
        """Whether lines behind this range are another part's."""
        return self.end is not None and self.end < self.size


def files(task: Task) -> list[SourceFile]:
    """Return all files of a task's data, in the order in which they are read.

    Raises:
        Refused: nothing is there.
    """
    filesystem, path = resolve(task.data.uri)
    if task.data.format == "code":
        return [SourceFile(*each) for each in _tree(filesystem, _existing(task, filesystem, path))]
    return [
        SourceFile(name, filesystem.size(name), name.endswith(readers.DIVISIBLE)) for name in task_files(task)
    ]


def shown(task: Task, file: SourceFile) -> str:
    """Return what a file of a task is called where rows are told of."""
    _, root = resolve(task.data.uri)
    return file.path.removeprefix(root).lstrip("/") or file.path.rsplit("/", 1)[-1]


def lines_begun(task: Task, file: SourceFile, begin: int, end: int) -> int:
    """Return how many lines of a divisible file begin in a range of bytes."""
    filesystem, _ = resolve(task.data.uri)
    with filesystem.open(file.path, "rb") as raw:
        return readers.lines_begun(raw, begin, end)


def found(task: Task, data: Data, those: Sequence[SourceFile] | None = None) -> Generator[Found, None, None]:
    """Yield what stands in every place of the task's data, or of `those` of its files, in order of file and line.

    Lines are counted from the first that a file is given with.

    Raises:
        Refused: a row is wrong and spec.data.wrongRows is fail; names file, line and what was expected.
    """
    chosen = files(task) if those is None else those
    places = _code(task, chosen) if task.data.format == "code" else _rows(task, chosen)
    for place in places:
        if place.reason == WRONG and data.wrong_rows == "fail":
            before = sum(lines_begun(task, f, 0, f.begin) for f in chosen if shown(task, f) == place.file)
            raise Refused(
                "InvalidRows",
                f"task {task.name}: {place.file}, line {before + place.line}: {place.detail}; correct the row, or set "
                "spec.data.wrongRows to drop",
            )
        yield place


def count(task: Task) -> int:
    """Return how many places the task's data has."""
    filesystem, _ = resolve(task.data.uri)
    if task.data.format == "code":
        return len(files(task))
    total = 0
    for file in files(task):
        with filesystem.open(file.path, "rb") as raw:
            total += readers.count(file.path, raw)
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
            name
            for name in filesystem.find(path)
            if name.endswith(readers.SUFFIXES) and not is_hidden(name.removeprefix(path).lstrip("/"))
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


def _rows(task: Task, chosen: Sequence[SourceFile]) -> Iterator[Found]:
    shape = _shape(task) if task.data.format == "auto" else task.data.format
    for name, number, value in _values(task, chosen):
        try:
            if isinstance(value, WrongRow):
                raise value
            yield Found(name, number, to_row(value, detect(value) if shape == "auto" else shape))
        except WrongRow as error:
            yield Found(name, number, reason=WRONG, detail=str(error))


def _shape(task: Task) -> DataFormat:
    """Return the shape of the first row that has one: that of the whole task, in whichever file rows stand."""
    with contextlib.closing(_values(task, files(task))) as values:
        for _, _, value in values:
            with contextlib.suppress(WrongRow):
                if not isinstance(value, WrongRow):
                    return detect(value)
    return "auto"


def _values(task: Task, chosen: Sequence[SourceFile]) -> Generator[tuple[str, int, Any], None, None]:
    filesystem, _ = resolve(task.data.uri)
    for file in chosen:
        name = shown(task, file)
        with (
            filesystem.open(file.path, "rb") as raw,
            contextlib.closing(readers.values(file.path, raw, file.begin, file.end)) as values,  # type: ignore[type-var]
        ):
            for number, value in values:
                yield name, number, value


def _code(task: Task, chosen: Sequence[SourceFile]) -> Iterator[Found]:
    """Yield the files of a folder: those of a known language are rows."""
    filesystem, _ = resolve(task.data.uri)
    for file in chosen:
        name = shown(task, file)
        if file.size > CODE_LIMIT:
            yield Found(name, 0, reason="tooLarge", detail=f"{file.size} bytes")
        else:
            yield _source_file(name, filesystem.cat_file(file.path))


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
