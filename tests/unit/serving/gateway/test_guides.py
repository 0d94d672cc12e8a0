"""Formats of answers: their bounds, and refusals that name the field."""

import json
from typing import Any

import pytest

from anneal_serving.gateway import requests
from anneal_serving.gateway.errors import ApiError
from anneal_serving.gateway.guides import Guide


def guide(wanted: Any) -> Guide | None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "response_format": wanted}
    return requests.parse_chat(json.dumps(body).encode()).guide


def schema(value: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": value}}


def nested(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        found = {"items": found}
    return found


@pytest.mark.parametrize(
    ("wanted", "param", "text"),
    [
        ({"type": "yaml"}, "response_format", "does not match any of the expected tags"),
        ({"type": "json_schema"}, "response_format.json_schema", "required"),
        (schema("x"), "response_format.json_schema.schema", "object"),
        ({"type": "regex"}, "response_format.regex", "required"),
        ({"type": "regex", "regex": "x" * 5000}, "response_format.regex", "4096"),
        ({"type": "regex", "regex": "(a{1,200}){1,200}"}, "response_format.regex", "multiply"),
        ({"type": "regex", "regex": "(a{200,}){200,}"}, "response_format.regex", "multiply"),
        ({"type": "regex", "regex": "(" * 40}, "response_format.regex", "open brackets"),
        ({"type": "grammar", "grammar": ""}, "response_format.grammar", "at least 1"),
        (schema(nested(40)), "response_format.json_schema.schema", "levels"),
        (schema({"enum": ["x" * 40_000]}), "response_format.json_schema.schema", "characters"),
        (schema({"maxLength": 10**9}), "response_format.json_schema.schema", "maxLength"),
        (schema({"pattern": "(a{1,200}){1,200}"}), "response_format.json_schema.schema", "multiply"),
    ],
)
def test_a_refusal_names_the_field(wanted: Any, param: str, text: str) -> None:
    with pytest.raises(ApiError, match=text) as caught:
        guide(wanted)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_ordinary_formats_pass() -> None:
    assert guide({"type": "regex", "regex": r"\d{4}-\d{2}-\d{2}"}) == Guide("regex", r"\d{4}-\d{2}-\d{2}")
    found = guide(schema(nested(10) | {"maxItems": 100}))
    assert found is not None
    assert json.loads(found.text)["maxItems"] == 100
