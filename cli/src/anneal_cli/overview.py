"""What a resource is doing, at a glance: as data, as a table, and as the view that `--watch` keeps drawing."""

from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from anneal_api.base import Condition
from anneal_api.finetunejob import FineTuneJobStatus
from anneal_api.modeldeployment import ModelDeploymentStatus
from anneal_cli.kubectl import Object

DONE = ("Complete", "Failed")
"""Phases of a FineTuneJob after which nothing changes by itself."""


@dataclass(frozen=True)
class Overview:
    """A resource at a glance; `figures` in the order in which they are shown."""

    kind: str
    name: str
    phase: str
    percent: int | None
    figures: dict[str, str]
    message: str
    tables: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether there is nothing more to watch."""
        return self.phase in DONE


def overview(resource: Object) -> Overview:
    """Return a FineTuneJob or ModelDeployment at a glance."""
    if resource["kind"] == "FineTuneJob":
        return _job(
            resource["metadata"]["name"], FineTuneJobStatus.model_validate(resource.get("status", {}))
        )
    return _deployment(
        resource["metadata"]["name"], ModelDeploymentStatus.model_validate(resource.get("status", {}))
    )


def _job(name: str, status: FineTuneJobStatus) -> Overview:
    shown = status.progress
    figures: dict[str, Any] = {"restarts": status.restarts, "nodes": status.nodes}
    if shown is not None:
        figures = {
            "step": f"{shown.step}/{shown.total_steps}",
            "loss": shown.loss,
            "validation": shown.validation_loss,
            "tokens/s": shown.tokens_per_second,
            "left": duration(shown.time_left_seconds),
            **figures,
        }
    return Overview(
        "FineTuneJob",
        name,
        status.phase or "Pending",
        shown.percent if shown else None,
        _said(figures),
        pending(status.conditions),
        {"tasks": _tasks(status)},
    )


def _tasks(status: FineTuneJobStatus) -> list[dict[str, str]]:
    """Return a row a task: what it loses now, and once it is measured what it lost before and after."""
    losses = status.progress.task_losses if status.progress else {}
    scores = {score.name: score for score in status.scores}
    rows = []
    for name in sorted({*losses, *scores}):
        score = scores.get(name)
        held_out = {"base": score.base_loss, "tuned": score.tuned_loss} if score else {}
        rows.append({"task": name, "validation": losses.get(name, ""), **held_out})
    return rows


def _deployment(name: str, status: ModelDeploymentStatus) -> Overview:
    figures = {
        "replicas": f"{status.ready_replicas}/{status.desired_replicas}",
        "load": status.load,
        "url": status.url,
    }
    versions = [
        {
            "version": version.run or version.digest[:19],
            "stage": version.stage,
            "traffic": f"{version.traffic_percent}%",
            "KL": version.gate.logit_kl if version.gate else "",
            "message": version.message,
        }
        for version in status.versions
    ]
    return Overview(
        "ModelDeployment",
        name,
        status.phase or "Pending",
        None,
        _said(figures),
        pending(status.conditions),
        {"versions": versions},
    )


def _said(figures: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in figures.items() if value not in (None, "")}


def pending(conditions: list[Condition]) -> str:
    """Return what the newest condition that does not hold says: what is waited for, or what went wrong."""
    failed = [each for each in conditions if each.type == "Failed" and each.status == "True"]
    waiting = failed or [each for each in conditions if each.type != "Failed" and each.status == "False"]
    if not waiting or any(each.type == "Complete" and each.status == "True" for each in conditions):
        return ""
    newest = max(waiting, key=lambda each: each.last_transition_time)
    return f"{newest.reason}: {newest.message}"


def duration(seconds: int | None) -> str:
    """Return seconds as people say them; empty when there are none."""
    if seconds is None:
        return ""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def many(views: list[Overview]) -> RenderableType:
    """Return a table with a row a resource."""
    table = Table("KIND", "NAME", "PHASE", "PROGRESS", "FIGURES", "MESSAGE", box=None, pad_edge=False)
    for view in views:
        percent = "" if view.percent is None else f"{view.percent}%"
        table.add_row(view.kind, view.name, view.phase, percent, _line(view), Text(view.message[:80]))
    return table


def one(view: Overview) -> RenderableType:
    """Return everything about one resource, with a bar while there is progress."""
    parts: list[RenderableType] = [Text(f"{view.kind} {view.name}: {view.phase}", style="bold")]
    if view.percent is not None:
        parts.append(ProgressBar(total=100, completed=view.percent, width=60))
    parts.append(Text(_line(view)))
    if view.message:
        parts.append(Text(view.message))
    parts += [_table(rows) for rows in view.tables.values() if rows]
    return Group(*parts)


def _line(view: Overview) -> str:
    return "  ".join(f"{name} {value}" for name, value in view.figures.items())


def _table(rows: list[dict[str, str]]) -> Table:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(row.get(name, "")) for name in columns))
    return table


def line(view: Overview) -> str:
    """Return one resource in a line."""
    percent = "" if view.percent is None else f" {view.percent}%"
    return f"{view.kind} {view.name} {view.phase}{percent}  {_line(view)}  {view.message}".rstrip()
