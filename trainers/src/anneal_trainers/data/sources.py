"""Reading rows: a .jsonl file (plain, .gz or .zst) or a folder of them, streamed from any store."""

import contextlib
import gzip
import io
import json
from collections.abc import Generator
from typing import Any, BinaryIO, cast

import zstandard

from anneal_api.finetunejob import BaseModelSource, Task
from anneal_runtime.errors import Refused
from anneal_runtime.storage import resolve
from anneal_trainers.data.formats import Row, WrongRow, detect, to_row

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")


def base_uri(source: BaseModelSource) -> str:
    """Return the base model's URI; a revision of an hf:// model is part of it."""
    pinned = source.revision and source.uri.startswith("hf://") and "@" not in source.uri
    return f"{source.uri}@{source.revision}" if pinned else source.uri


def task_files(task: Task) -> list[str]:
    """Return the paths of the task's files within their filesystem, sorted.

    Raises:
        Refused: nothing is there, or nothing that is JSON lines.
    """
    uri = task.data.uri
    filesystem, path = resolve(uri)
    if not filesystem.exists(path):
        raise Refused(
            "DatasetNotFound", f"task {task.name}: {uri} does not exist; check spec.tasks[].data.uri"
        )
    if filesystem.isfile(path):
        files = [path] if path.endswith(SUFFIXES) else []
    else:
        files = sorted(name for name in filesystem.find(path) if name.endswith(SUFFIXES))
    if not files:
        raise Refused(
            "DatasetNotFound", f"task {task.name}: {uri} holds no file ending in {', '.join(SUFFIXES)}"
        )
    return files


def lines(task: Task) -> Generator[tuple[str, int, str], None, None]:
    """Yield (file, line number from 1, text) of every line of the task that is not blank."""
    filesystem, _ = resolve(task.data.uri)
    for path in task_files(task):
        with filesystem.open(path, "rb") as raw, io.TextIOWrapper(_opened(path, raw), "utf-8") as text:
            try:
                for number, line in enumerate(text, 1):
                    if line.strip():
                        yield path.rsplit("/", 1)[-1], number, line
            except (OSError, EOFError, UnicodeDecodeError, zstandard.ZstdError) as error:
                raise Refused(
                    "InvalidRows", f"task {task.name}: {path} cannot be read as UTF-8 JSON lines: {error}"
                ) from error


def rows(task: Task) -> Generator[Row, None, None]:
    """Yield every row of the task.

    Raises:
        Refused: a line is not of the task's format; names file, line and what was expected.
    """
    shape = task.data.format
    with contextlib.closing(lines(task)) as found:
        for file, number, line in found:
            try:
                value = _parsed(line)
                shape = detect(value) if shape == "auto" else shape
                row = to_row(value, shape)
            except WrongRow as error:
                raise Refused("InvalidRows", f"task {task.name}: {file}, line {number}: {error}") from error
            yield row


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise WrongRow(f"expected one JSON object a line: {error}") from error


def _opened(path: str, raw: BinaryIO) -> BinaryIO:
    if path.endswith(".gz"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    if path.endswith(".zst"):
        return cast(BinaryIO, zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True))
    return raw
