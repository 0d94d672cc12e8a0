"""Triton's config.pbtxt: protobuf text format from plain values."""

import json
from typing import Any


class Symbol(str):
    """An enum value: written without quotes."""


def render(message: dict[str, Any], indent: str = "") -> str:
    """Return `message` as protobuf text; a list repeats its field, a dict is a nested message."""
    lines = [_field(key, item, indent) for key, value in message.items() for item in _items(value)]
    return "".join(lines)


def parameters(values: dict[str, str]) -> list[dict[str, Any]]:
    """Return the `parameters` map of a model."""
    return [{"key": key, "value": {"string_value": value}} for key, value in values.items()]


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _field(key: str, value: Any, indent: str) -> str:
    if isinstance(value, dict):
        return f"{indent}{key} {{\n{render(value, indent + '  ')}{indent}}}\n"
    return f"{indent}{key}: {_scalar(value)}\n"


def _scalar(value: Any) -> str:
    if isinstance(value, Symbol):
        return str(value)
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value)
