"""`response_format`: what an answer must look like, bounded so that no request can keep a replica busy with it.

Beside OpenAI's json_object and json_schema there are {"type": "regex", "regex": ...} and {"type": "grammar",
"grammar": ...} (EBNF with a rule `root`).
"""

import json
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from anneal_serving.gateway.errors import ApiError

MAX_LENGTH = 32_768
MAX_DEPTH = 32
MAX_REPEATS = 10_000
_REPEAT = re.compile(r"\{(\d*)(?:,(\d*))?\}")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")


class _Format(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class TextFormat(_Format):
    """Any text."""

    type: Literal["text"]


class JsonObject(_Format):
    """Some JSON object."""

    type: Literal["json_object"]


class JsonSchema(_Format):
    """A schema and what OpenAI's clients send with it; an answer always keeps to it, strict or not."""

    name: Annotated[str, Field(max_length=64)]
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class JsonSchemaFormat(_Format):
    """JSON that a schema describes."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class RegexFormat(_Format):
    """Text that a regular expression matches whole."""

    type: Literal["regex"]
    regex: Annotated[str, Field(min_length=1, max_length=4096)]


class GrammarFormat(_Format):
    """Text that a grammar derives."""

    type: Literal["grammar"]
    grammar: Annotated[str, Field(min_length=1, max_length=MAX_LENGTH)]


ResponseFormat = Annotated[
    TextFormat | JsonObject | JsonSchemaFormat | RegexFormat | GrammarFormat, Field(discriminator="type")
]
TYPES = ("text", "json_object", "json_schema", "regex", "grammar")


@dataclass(frozen=True)
class Guide:
    """What the engine is told: a kind of the tensorrtllm backend's `guided_decoding_guide_type`, and the text."""

    kind: str
    text: str = ""


def guide_of(wanted: ResponseFormat | None) -> Guide | None:
    """Return what the engine is told, None for any text.

    Raises:
        ApiError: 400 for a guide that is too large.
    """
    match wanted:
        case JsonObject():
            return Guide("json")
        case JsonSchemaFormat():
            return Guide("json_schema", _schema(wanted.json_schema.schema_))
        case RegexFormat():
            return Guide("regex", _bounded("response_format.regex", wanted.regex))
        case GrammarFormat():
            return Guide("ebnf_grammar", _bounded("response_format.grammar", wanted.grammar))
    return None


def _schema(schema: dict[str, Any]) -> str:
    field = "response_format.json_schema.schema"
    if _depth(schema) > MAX_DEPTH:
        raise _refused(field, f"more than {MAX_DEPTH} levels; flatten it")
    text = json.dumps(schema, ensure_ascii=False)
    if len(text) > MAX_LENGTH:
        raise _refused(field, f"{len(text)} characters, and {MAX_LENGTH} are allowed; shorten it")
    return text if _counts(schema, field) else ""


def _counts(value: Any, field: str) -> bool:
    """Check every count and pattern in a schema; always True."""
    if isinstance(value, dict):
        for name in _COUNTS:
            count = value.get(name)
            if isinstance(count, int | float) and count > MAX_REPEATS:
                raise _refused(field, f"{name}: {count} is more than {MAX_REPEATS}; lower it")
        if isinstance(pattern := value.get("pattern"), str):
            _bounded(f"{field} (pattern)", pattern)
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _counts(each, field)
    return True


def _depth(value: Any) -> int:
    level, deep = [value], 0
    while level:
        deep += 1
        nested = [each for each in level if isinstance(each, dict | list)]
        level = [x for each in nested for x in (each.values() if isinstance(each, dict) else each)]
    return deep


def _bounded(field: str, text: str) -> str:
    """Return a text whose counted repetitions, one inside the other, stay compilable and whose brackets do not pile up."""
    repeats = 1
    for least, most in _REPEAT.findall(text):
        repeats *= max(1, int(most[:9] or least[:9] or 1), int(least[:9] or 1))
        if repeats > MAX_REPEATS:
            raise _refused(field, f"counted repetitions multiply to more than {MAX_REPEATS}; use fewer")
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth > MAX_DEPTH:
            raise _refused(field, f"more than {MAX_DEPTH} open brackets; flatten it")
    return text


def _refused(field: str, text: str) -> ApiError:
    return ApiError(400, f"{field}: {text}", param=field.partition(" ")[0], code="invalid_response_format")
