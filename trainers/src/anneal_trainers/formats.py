"""Rows of every accepted shape become one: a chat, or a plain text.

Shapes: `chat_rounds` (CodeFuse: human|user and bot|assistant|gpt in turn after an optional system),
`messages` (OpenAI), `pair` (a question and an answer under one of the names below, optional system)
and `text`. An optional key `group` keeps rows of one origin in one part of the split; an optional number
`difficulty` is what a curriculum orders the rows of a task by.
"""

import math
from dataclasses import dataclass
from typing import Any

from anneal_api.finetunejob import DataFormat

PAIRS = (
    ("prompt", "answer"),
    ("prompt", "response"),
    ("input", "output"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "response"),
    ("question", "answer"),
    ("query", "answer"),
)
ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "bot": "assistant",
    "assistant": "assistant",
    "gpt": "assistant",
}


class WrongRow(ValueError):
    """A row that is not of the expected shape; the message says what was expected."""


@dataclass(frozen=True)
class Row:
    """One row: `messages` of a chat, or a `text` when there are none."""

    messages: tuple[tuple[str, str], ...]
    text: str = ""
    group: str | None = None
    difficulty: float | None = None

    @property
    def chat(self) -> list[dict[str, str]]:
        """The messages as chat templates take them."""
        return [{"role": role, "content": content} for role, content in self.messages]


def detect(value: Any) -> DataFormat:
    """Return the shape of a row.

    Raises:
        WrongRow: it has none of the known shapes.
    """
    row = _object(value)
    if "chat_rounds" in row:
        return "chat_rounds"
    if "messages" in row:
        return "messages"
    if any(a in row and b in row for a, b in PAIRS):
        return "pair"
    if "text" in row:
        return "text"
    raise WrongRow(
        "expected a row with chat_rounds, messages, text or a pair such as instruction and output; "
        f"found the keys {sorted(row)[:8]}"
    )


def to_row(value: Any, shape: DataFormat) -> Row:
    """Return `value`, a row of `shape`, in the one form everything else works with.

    Raises:
        WrongRow: it is not of that shape.
    """
    row = _object(value)
    about = {"group": _group(row), "difficulty": _difficulty(row)}
    if shape == "text":
        return Row((), _string(row, "text"), **about)
    if shape == "pair":
        return Row(_pair(row), **about)
    return Row(_rounds(row, "chat_rounds" if shape == "chat_rounds" else "messages"), **about)


def _group(row: dict[str, Any]) -> Any:
    group = row.get("group")
    if group is not None and not isinstance(group, str):
        raise WrongRow(f"expected group to be a string, found {type(group).__name__}")
    return group


def _difficulty(row: dict[str, Any]) -> Any:
    value = row.get("difficulty")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (number and math.isfinite(value)):
        raise WrongRow(f"expected difficulty to be a finite number, found {_shown(value)}")
    return value


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WrongRow(f"expected a JSON object, found {type(value).__name__}")
    return value


def _string(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value:
        raise WrongRow(f"expected {key} to be a string that is not empty, found {_shown(value)}")
    return value


def _pair(row: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    names = next(((a, b) for a, b in PAIRS if a in row and b in row), None)
    if names is None:
        accepted = ", ".join("/".join(pair) for pair in PAIRS)
        raise WrongRow(f"expected one of the pairs {accepted}; found the keys {sorted(row)[:8]}")
    turns = (("user", _string(row, names[0])), ("assistant", _string(row, names[1])))
    return (("system", _string(row, "system")), *turns) if row.get("system") else turns


def _rounds(row: dict[str, Any], key: str) -> tuple[tuple[str, str], ...]:
    rounds = row.get(key)
    if not isinstance(rounds, list) or not rounds:
        raise WrongRow(f"expected {key} to be a list of messages, found {_shown(rounds)}")
    messages = tuple(_message(message, key) for message in rounds)
    turns = [role for role, _ in messages[messages[0][0] == "system" :]]
    wanted = ["user", "assistant"] * (len(turns) // 2)
    if not turns or turns != wanted:
        raise WrongRow(
            f"expected {key} to be an optional system message and then user and assistant in turn, "
            f"ending with assistant; found {[role for role, _ in messages][:8]}"
        )
    return messages


def _message(message: Any, key: str) -> tuple[str, str]:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise WrongRow(f"expected every message of {key} to have a role of {sorted(ROLES)}")
    return ROLES[message["role"]], _string(message, "content")


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)[:40]
