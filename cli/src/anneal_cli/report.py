"""The report of a run: one HTML page with everything in it, no script and no network."""

from collections.abc import Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from anneal_api.base import wire
from anneal_api.finetunejob import Attempt, FineTuneJobSpec, FineTuneJobStatus
from anneal_cli import curves, difference, story
from anneal_cli.kubectl import Object
from anneal_operator import times


def page(
    resource: Object, events: list[Object], steps: Sequence[dict[str, Any]], samples: Sequence[Object] = ()
) -> str:
    """Return the page of a FineTuneJob from its spec, its status, its events, its ledger and its data set's report."""
    status = FineTuneJobStatus.model_validate(resource.get("status", {}))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("anneal_cli", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html").render(
        name=resource["metadata"]["name"],
        namespace=resource["metadata"].get("namespace", ""),
        status=status,
        curves=_drawn(steps),
        samples=samples,
        attempts=[(attempt, pace(attempt)) for attempt in status.attempts],
        change=change,
        spec=difference.flat(wire(FineTuneJobSpec.model_validate(resource["spec"]))),
        story=story.story(resource, events),
    )


def _drawn(steps: Sequence[dict[str, Any]]) -> Markup | None:
    """Return the curves as an element of the page; what stands before <svg> is for files of their own."""
    if not steps:
        return None
    text = curves.image(curves.curves(steps), "svg").decode()
    return Markup(text[text.index("<svg") :])


def pace(attempt: Attempt) -> str:
    """Return the seconds a step of an attempt took, as seen from outside; empty where fewer than two were seen."""
    first, last = attempt.first_step, attempt.step
    if not (attempt.training and attempt.ended) or first is None or last is None or last <= first:
        return ""
    seconds = times.seconds_since(attempt.training, times.parse(attempt.ended))
    return f"{seconds / (last - first):.3g}"


def change(base: str, tuned: str) -> str:
    """Return the relative change of a held-out loss in per cent; empty where one of them is no number above zero."""
    try:
        return f"{100 * (float(tuned) / float(base) - 1):+.1f}%"
    except (ValueError, ZeroDivisionError):
        return ""
