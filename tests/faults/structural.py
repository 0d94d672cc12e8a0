"""What the API server does with a custom resource by its CRD's schema: unknown fields go, defaults come, the rest
is checked."""

import copy
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cel
import yaml

CRDS = Path(__file__).parents[2] / "charts" / "anneal" / "files" / "crds"
TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}
Schema = dict[str, Any]


@functools.cache
def schema(plural: str) -> Schema:
    """Return the schema of a custom resource, as the chart installs it."""
    crd = yaml.safe_load((CRDS / f"{plural}.yaml").read_text().split("{{")[0])
    return dict(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])


def pruned(value: Any, rules: Schema) -> Any:
    """Return `value` without fields the schema does not know."""
    if isinstance(value, dict) and "properties" in rules:
        known = rules["properties"]
        return {name: pruned(held, known[name]) for name, held in value.items() if name in known}
    if isinstance(value, list) and "items" in rules:
        return [pruned(item, rules["items"]) for item in value]
    return value


def defaulted(value: Any, rules: Schema) -> Any:
    """Return `value` with the schema's defaults; a null where a default exists counts as unset."""
    if isinstance(value, dict) and "properties" in rules:
        filled = dict(value)
        for name, rule in rules["properties"].items():
            if "default" in rule and filled.get(name) is None:
                filled[name] = copy.deepcopy(rule["default"])
            if name in filled:
                filled[name] = defaulted(filled[name], rule)
        return filled
    if isinstance(value, list) and "items" in rules:
        return [defaulted(item, rules["items"]) for item in value]
    return value


def errors(value: Any, rules: Schema, path: str = "") -> Iterator[str]:
    """Yield what is wrong with `value`: the field's path and what it must be."""
    if not _typed(value, rules.get("type")):
        yield f"{path}: must be of type {rules['type']}"
        return
    wrong = [*(f"{path}: {text}" for text in _own(value, rules)), *_inside(value, rules, path)]
    yield from wrong
    if wrong:
        return
    for rule in rules.get("x-kubernetes-validations", []):
        if not cel.holds(rule["rule"], value):
            yield f"{path}: {rule['message']}"


def _typed(value: Any, wanted: str | None) -> bool:
    if wanted is None:
        return True
    if isinstance(value, bool):
        return wanted == "boolean"
    if wanted == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, TYPES[wanted])


def _inside(value: Any, rules: Schema, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        inner = rules.get("properties", {})
        other = rules.get("additionalProperties")
        for name, held in value.items():
            if name in inner:
                yield from errors(held, inner[name], f"{path}.{name}")
            elif isinstance(other, dict):
                yield from errors(held, other, f"{path}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from errors(item, rules.get("items", {}), f"{path}[{index}]")


def _own(value: Any, rules: Schema) -> Iterator[str]:
    for name in rules.get("required", []):
        if name not in value:
            yield f"{name} is required"
    if "enum" in rules and value not in rules["enum"]:
        yield f"must be one of {rules['enum']}"
    if isinstance(value, str):
        yield from _of_text(value, rules)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _of_number(value, rules)
    elif isinstance(value, list):
        yield from _of_list(value, rules)


def _of_text(value: str, rules: Schema) -> Iterator[str]:
    if len(value) > rules.get("maxLength", len(value)) or len(value) < rules.get("minLength", 0):
        yield "too long or too short"
    if "pattern" in rules and not re.search(rules["pattern"], value):
        yield f"must match {rules['pattern']}"


def _of_number(value: float, rules: Schema) -> Iterator[str]:
    low, high = rules.get("minimum", value), rules.get("maximum", value)
    if value < low or (rules.get("exclusiveMinimum") and value == low):
        yield f"must be above {low}"
    if value > high or (rules.get("exclusiveMaximum") and value == high):
        yield f"must be below {high}"


def _of_list(value: list[Any], rules: Schema) -> Iterator[str]:
    if not rules.get("minItems", 0) <= len(value) <= rules.get("maxItems", len(value)):
        yield "too many or too few items"
    keys = rules.get("x-kubernetes-list-map-keys")
    if keys:
        named = [tuple(str(item.get(key)) for key in keys) for item in value if isinstance(item, dict)]
        if len(set(named)) < len(named):
            yield f"items are told apart by {keys}"
