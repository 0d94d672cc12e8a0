"""Rows of every accepted shape become one: a chat, two of them to choose from, or a plain text.

Shapes: `chat_rounds` (CodeFuse: human|user and bot|assistant|gpt in turn after an optional system),
`messages` (OpenAI), `pair` (a question and an answer under one of the names below, optional system)
`text`, and `preference`: a prompt (a text under one of the names below, or messages, with an optional
system), a `chosen` and a `rejected` answer (texts, messages to follow the prompt, or whole conversations
that differ in their last message; the conventions of TRL and OpenAI). An optional key `group` keeps rows of
one origin in one part of the split; an optional number `difficulty` is what a curriculum orders the rows of a
task by; of a text, `path` and `language` say which file of source code it is.
"""

import math
from dataclasses import dataclass
from typing import Any

from anneal_api.finetunejob import DataFormat
from anneal_trainers.corpus.languages import language

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
PROMPTS = ("prompt", "question", "instruction", "input", "messages")
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


Messages = tuple[tuple[str, str], ...]
"""Role and text of each message of a chat."""


@dataclass(frozen=True)
class Row:
    """One row: `messages` of a chat, or a `text` when there are none.

    Of a preference, `messages` ends with the chosen answer, and `rejected` is the same chat with the other.
    """

    messages: Messages
    text: str = ""
    group: str | None = None
    difficulty: float | None = None
    rejected: Messages = ()
    path: str = ""
    language: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """Every text of the row: of a preference the rejected answer last."""
        return (*(content for _, content in self.messages + self.rejected[-1:]), *filter(None, [self.text]))

    @property
    def chat(self) -> list[dict[str, str]]:
        """The messages as chat templates take them."""
        return _chat(self.messages)

    @property
    def rejected_chat(self) -> list[dict[str, str]]:
        """The same of `rejected`."""
        return _chat(self.rejected)


def detect(value: Any) -> DataFormat:
    """Return the shape of a row.

    Raises:
        WrongRow: it has none of the known shapes.
    """
    row = _object(value)
    if "chosen" in row and "rejected" in row:
        return "preference"
    if "chat_rounds" in row:
        return "chat_rounds"
    if "messages" in row:
        return "messages"
    if any(a in row and b in row for a, b in PAIRS):
        return "pair"
    if "text" in row:
        return "text"
    raise WrongRow(
        "expected a row with chat_rounds, messages, text, chosen and rejected, or a pair such as instruction "
        f"and output; found the keys {sorted(row)[:8]}"
    )


def to_row(value: Any, shape: DataFormat) -> Row:
    """Return `value`, a row of `shape`, in the one form everything else works with.

    Raises:
        WrongRow: it is not of that shape.
    """
    row = _object(value)
    about = {"group": _group(row), "difficulty": _difficulty(row)}
    if shape == "text":
        return _document(row, about)
    if shape == "preference":
        chosen, rejected = _preference(row)
        return Row(chosen, rejected=rejected, **about)
    if shape == "pair":
        return Row(_pair(row), **about)
    return Row(_rounds(row, "chat_rounds" if shape == "chat_rounds" else "messages"), **about)


def _document(row: dict[str, Any], about: dict[str, Any]) -> Row:
    text, path, told = _string(row, "text"), row.get("path"), row.get("language")
    path = path if isinstance(path, str) else ""
    known = told.lower() if isinstance(told, str) else language(path, text) or ""
    return Row((), text, path=path, language=known, **about)


def _chat(messages: Messages) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in messages]


def _group(row: dict[str, Any]) -> Any:
    group = row.get("group")
    if group is not None and not isinstance(group, str):
        raise WrongRow(f"expected group to be a string, found {type(group).__name__}")
    return group and _unicode(group, "group")


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
    return _unicode(value, key)


def _unicode(value: str, key: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise WrongRow(f"expected {key} to be Unicode text: {error}") from error
    return value


def _system(row: dict[str, Any]) -> Messages:
    return (("system", _string(row, "system")),) if row.get("system") else ()


def _pair(row: dict[str, Any]) -> Messages:
    names = next(((a, b) for a, b in PAIRS if a in row and b in row), None)
    if names is None:
        accepted = ", ".join("/".join(pair) for pair in PAIRS)
        raise WrongRow(f"expected one of the pairs {accepted}; found the keys {sorted(row)[:8]}")
    return (*_system(row), ("user", _string(row, names[0])), ("assistant", _string(row, names[1])))


def _preference(row: dict[str, Any]) -> tuple[Messages, Messages]:
    prompt = _prompt(row)
    chosen, rejected = (_conversation(row, key, prompt) for key in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1]:
        raise WrongRow("expected chosen and rejected to differ in their last message alone")
    return chosen, rejected


def _prompt(row: dict[str, Any]) -> Messages:
    """Return what the answers of a preference follow; nothing where they are whole conversations."""
    name = next((name for name in PROMPTS if name in row), None)
    if name is None:
        return ()
    if isinstance(row[name], list):
        return (*_system(row), *_messages(row, name))
    return (*_system(row), ("user", _string(row, name)))


def _conversation(row: dict[str, Any], key: str, prompt: Messages) -> Messages:
    if not isinstance(row.get(key), list):
        return _alternating((*prompt, ("assistant", _string(row, key))), key)
    messages = _messages(row, key)
    if messages[0][0] == "assistant":
        return _alternating((*prompt, *messages), key)
    if prompt and messages[:-1] != prompt:
        raise WrongRow(f"expected {key} to be an answer, or to begin with the prompt of the row")
    return _alternating(messages, key)


def _rounds(row: dict[str, Any], key: str) -> Messages:
    return _alternating(_messages(row, key), key)


def _messages(row: dict[str, Any], key: str) -> Messages:
    rounds = row.get(key)
    if not isinstance(rounds, list) or not rounds:
        raise WrongRow(f"expected {key} to be a list of messages, found {_shown(rounds)}")
    return tuple(_message(message, key) for message in rounds)


def _alternating(messages: Messages, key: str) -> Messages:
    turns = [role for role, _ in messages[messages[0][0] == "system" :]]
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
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
