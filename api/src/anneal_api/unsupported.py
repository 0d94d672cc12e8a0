"""Fields that exist and are not built yet: set to anything but their default they are refused, never ignored.

The table shrinks to nothing; a path ends where a default is compared, `[]` walks a list.
"""

from collections.abc import Iterator

from anneal_api.base import Model
from anneal_api.finetunejob import FineTuneJobSpec
from anneal_api.modeldeployment import ModelDeploymentSpec

FIELDS: dict[type[Model], tuple[str, ...]] = {
    FineTuneJobSpec: (
        "tasks[].fim",
        "tasks[].sampling_share",
        "data.dedup",
        "data.filters",
        "data.decontaminate",
        "adapter.init_from",
        "optimization.objective",
        "optimization.schedule",
        "stages",
        "workers.strategy",
        "checkpoint.every_minutes",
        "evaluation.suites",
        "telemetry",
    ),
    ModelDeploymentSpec: (
        "model.selector",
        "engine.kv_cache_type",
        "engine.tensor_parallel_size",
        "gate.accelerator",
        "gate.suites",
        "rollout",
        "gateway.api_keys_secret",
        "gateway.cache",
    ),
}
"""Values, rather than whole fields, that are not built yet."""
VALUES: dict[type[Model], dict[str, tuple[str, ...]]] = {
    FineTuneJobSpec: {
        "optimization.task_balance": ("coba", "lossDrop"),
        "tasks[].data.format": ("preference",),
    },
    ModelDeploymentSpec: {
        "engine.runtime": ("tensorrt-llm-pytorch",),
        "quantization.method": ("none",),
    },
}


def refused(spec: Model) -> list[str]:
    """Return a sentence for every field of `spec` that is set to something not built yet."""
    fields = (
        f"spec.{_shown(path)}: {_text(value)} is not implemented yet; remove the field"
        for path in FIELDS[type(spec)]
        for value, default in _walk(spec, path.split("."))
        if value != default
    )
    values = (
        f"spec.{_shown(path)}: {value} is not implemented yet; choose another value"
        for path, names in VALUES[type(spec)].items()
        for value, _ in _walk(spec, path.split("."))
        if value in names
    )
    return [*fields, *values]


def _walk(model: Model, path: list[str]) -> Iterator[tuple[object, object]]:
    head, rest = path[0], path[1:]
    name = head.removesuffix("[]")
    value = getattr(model, name)
    if value is not None and rest:
        for item in value if head.endswith("[]") else [value]:
            yield from _walk(item, rest)
    elif not rest:
        yield value, type(model).model_fields[name].get_default(call_default_factory=True)


def _shown(path: str) -> str:
    head, *rest = path.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _text(value: object) -> str:
    return repr(value.model_dump(by_alias=True)) if isinstance(value, Model) else repr(value)
