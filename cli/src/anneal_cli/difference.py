"""What differs between two runs: what was asked for, and what came of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from anneal_api.base import wire
from anneal_api.finetunejob import FineTuneJobSpec, FineTuneJobStatus
from anneal_cli.kubectl import Object

NAMED = "name"
"""Items of a list that have this field are told apart by it, not by their place."""


@dataclass(frozen=True)
class Change:
    """A field, and what it is on either side; None where it is not set."""

    field: str
    first: Any
    second: Any


@dataclass(frozen=True)
class Difference:
    """What differs in the specs with their defaults, and in the results."""

    first: str
    second: str
    spec: list[Change]
    results: list[Change]


def difference(first: Object, second: Object) -> Difference:
    """Compare two FineTuneJobs."""
    specs = [flat(wire(FineTuneJobSpec.model_validate(job["spec"]))) for job in (first, second)]
    results = [_results(FineTuneJobStatus.model_validate(job.get("status", {}))) for job in (first, second)]
    names = (first["metadata"]["name"], second["metadata"]["name"])
    return Difference(*names, changes(*specs), changes(*results))


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of nested values by path, such as `tasks[fim].weight`."""
    if isinstance(value, dict) and value:
        return {
            p: leaf
            for name, each in value.items()
            for p, leaf in flat(each, f"{path}.{name}" if path else name).items()
        }
    if isinstance(value, list) and value:
        return {p: leaf for key, each in _items(value) for p, leaf in flat(each, f"{path}[{key}]").items()}
    return {path: value}


def _items(values: list[Any]) -> Iterator[tuple[Any, Any]]:
    for place, each in enumerate(values):
        yield (each[NAMED] if isinstance(each, dict) and NAMED in each else place), each


def changes(first: dict[str, Any], second: dict[str, Any]) -> list[Change]:
    """Return the fields that differ, in the first's order and then the second's."""
    fields = dict.fromkeys((*first, *second))
    return [Change(f, first.get(f), second.get(f)) for f in fields if first.get(f) != second.get(f)]


def _results(status: FineTuneJobStatus) -> dict[str, Any]:
    shown = status.progress
    scores = {f"held-out loss of {score.name}": score.tuned_loss for score in status.scores}
    adapter = status.artifacts.adapter
    return {
        "phase": status.phase,
        "steps": shown.step if shown else None,
        "loss": shown.loss if shown else None,
        "validation loss": shown.validation_loss if shown else None,
        **scores,
        "attempts": len(status.attempts),
        "restarts": status.restarts,
        "adapter": adapter.digest if adapter else None,
    }


def render(found: Difference) -> RenderableType:
    """Return two tables; the same on both sides is not shown."""
    parts: list[RenderableType] = []
    for title, rows in (("spec", found.spec), ("results", found.results)):
        table = Table(title, found.first, found.second, box=None, pad_edge=False)
        for row in rows:
            table.add_row(Text(row.field), Text(_shown(row.first)), Text(_shown(row.second)))
        parts.append(table if rows else Text(f"{title}: no difference"))
    return Group(*parts)


def _shown(value: Any) -> str:
    return "-" if value is None else str(value)
