"""The curves of a run, from its ledger: of every task the loss it was trained with, and the learning rate."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import plotille

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMOOTHED = 40
"""Points a curve has at most in a terminal: means over as many stretches."""
Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Curves:
    """Points (step, value) by name."""

    losses: dict[str, Points]
    learning_rate: Points
    attempts: dict[int, int]
    """The first step that counts of each attempt, for those after the first."""


def curves(steps: Sequence[Mapping[str, Any]]) -> Curves:
    """Return the curves of a ledger's steps in order; what is no number is left out."""
    losses: dict[str, Points] = {"loss": []}
    attempts: dict[int, int] = {}
    for step in steps:
        attempts.setdefault(step["attempt"], step["step"])
        for name, value in {"loss": step["loss"], **step["task_losses"]}.items():
            if math.isfinite(value):
                losses.setdefault(name, []).append((step["step"], value))
    rate = [(step["step"], step["learning_rate"]) for step in steps]
    return Curves(losses, rate, dict(list(attempts.items())[1:]))


def thinned(points: Points, most: int = SMOOTHED) -> Points:
    """Return at most `most` points: means over stretches of equal length, the last step kept as it is."""
    if len(points) <= most:
        return points
    length = math.ceil(len(points) / most)
    stretches = [points[place : place + length] for place in range(0, len(points), length)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in stretches]


def terminal(shown: Curves, width: int = 70, height: int = 14, colour: bool = False) -> str:
    """Return two plots in characters: losses, and below them the learning rate."""
    losses = _plot(shown.losses, "loss", width, height, colour)
    return f"{losses}\n\n{_plot({'learning rate': shown.learning_rate}, 'rate', width, max(4, height // 3), colour)}"


def _plot(lines: Mapping[str, Points], label: str, width: int, height: int, colour: bool) -> str:
    figure = plotille.Figure()
    figure.width, figure.height, figure.with_colors = width, height, colour
    figure.x_label, figure.y_label = "step", label
    figure.register_label_formatter(float, _number)
    figure.register_label_formatter(int, _number)
    ends = [points[place][0] for points in lines.values() for place in (0, -1) if points]
    figure.set_x_limits(min_=min(ends), max_=max(*ends, min(ends) + 1))
    colours = ("blue", "red", "green", "yellow", "magenta", "cyan")
    for place, (name, points) in enumerate(lines.items()):
        if points:
            steps, values = zip(*thinned(points), strict=True)
            mark = None if colour else name[0]
            figure.plot(
                steps, values, label=name, lc=colours[place % len(colours)] if colour else None, marker=mark
            )
    return str(figure.show(legend=True))


def _number(value: float, chars: int, delta: float, left: bool = False) -> str:
    text = f"{value:.4g}"
    return text.ljust(chars) if left else text.rjust(chars)


def figure(shown: Curves) -> "Figure":
    """Return the same plots for paper and screen; where a later attempt went on is marked."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(9, 6), layout="constrained")
    above, below = drawn.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for name, points in shown.losses.items():
        above.plot(
            *zip(*points, strict=True), label=name, linewidth=2 if name == "loss" else 1
        ) if points else None
    for step in shown.attempts.values():
        above.axvline(step, color="grey", linestyle=":", linewidth=1)
    above.set_ylabel("loss (nats a token)")
    above.legend()
    below.plot(*zip(*shown.learning_rate, strict=True)) if shown.learning_rate else None
    below.set_ylabel("learning rate")
    below.set_xlabel("optimizer step")
    return drawn


def image(shown: Curves, format_: str) -> bytes:
    """Return the figure as a file: png or svg; the same curves give the same bytes."""
    import matplotlib as mpl

    data = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "anneal", "svg.fonttype": "path"}):
        figure(shown).savefig(
            data, format=format_, dpi=120, metadata={"Date": None} if format_ == "svg" else None
        )
    return data.getvalue()
