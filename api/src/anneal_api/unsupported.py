"""Fields that exist and are not built yet: set to anything but their default they are refused, never ignored.

The table shrinks to nothing; a path ends where a default is compared.
"""

from collections.abc import Iterator

from anneal_api.base import Model
from anneal_api.finetunejob import FineTuneJobSpec
from anneal_api.modeldeployment import ModelDeploymentSpec

FIELDS: dict[type[Model], tuple[str, ...]] = {
    FineTuneJobSpec: (),
    ModelDeploymentSpec: (),
}


def refused(spec: Model) -> list[str]:
    """Return a sentence for every field of `spec` that is set to something not built yet."""
    fields = (
        f"spec.{_shown(path)}: {_text(value)} is not implemented yet; remove the field"
        for path in FIELDS[type(spec)]
        for value, default in _walk(spec, path.split("."))
        if value != default
    )
    return list(fields)


def _walk(model: Model, path: list[str]) -> Iterator[tuple[object, object]]:
    name, rest = path[0], path[1:]
    value = getattr(model, name)
    if value is not None and rest:
        yield from _walk(value, rest)
    elif not rest:
        yield value, type(model).model_fields[name].get_default(call_default_factory=True)


def _shown(path: str) -> str:
    head, *rest = path.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _text(value: object) -> str:
    return repr(value.model_dump(by_alias=True)) if isinstance(value, Model) else repr(value)
