"""How many replicas the load asks for: up at once, down only after it has been lower for a while."""

import math
import re
from dataclasses import dataclass
from datetime import datetime

from anneal_api.modeldeployment import Autoscaling, ModelDeploymentSpec
from anneal_operator import times

TICK = 5.0
"""Seconds between looks at the load."""


@dataclass(frozen=True)
class Load:
    """What all replicas and gateways report together."""

    waiting: float
    active: float
    cache: float
    """Sum of the replicas' used shares of their KV cache."""
    complete: bool
    """Whether everyone who was asked has answered; without that nothing is scaled down."""


@dataclass(frozen=True)
class Scale:
    """Replicas wanted now, and since when fewer would do."""

    replicas: int
    down_since: str | None


def scale(
    spec: ModelDeploymentSpec, load: Load | None, current: int | None, down_since: str | None, now: datetime
) -> Scale:
    """Return the replicas to run; `current` is what was decided last, None before the first time."""
    rules = spec.autoscaling
    if rules is None:
        return Scale(1 if spec.replicas is None else spec.replicas, None)
    held = _clamp(rules, max(1, rules.min_replicas) if current is None else current)
    if load is None:
        return Scale(held, down_since)
    return _follow(rules, wanted(rules, spec.engine.max_batch_size, load), held, load, down_since, now)


def wanted(rules: Autoscaling, slots: int, load: Load) -> int:
    """Return the replicas that keep slots and KV cache at the target's share; starting ones count as there."""
    by_slots = (load.waiting + load.active) / (rules.target_utilization * slots)
    by_cache = load.cache / rules.target_utilization
    # A hair below: 0.7 / 0.7 and its like must not become a replica more by rounding.
    return _clamp(rules, math.ceil(max(by_slots, by_cache) - 1e-9))


def _clamp(rules: Autoscaling, replicas: int) -> int:
    return max(rules.min_replicas, min(rules.max_replicas, replicas))


def _follow(
    rules: Autoscaling, target: int, held: int, load: Load, down_since: str | None, now: datetime
) -> Scale:
    if target >= held:
        return Scale(target, None)
    if not load.complete:
        return Scale(held, down_since)
    since = down_since or times.stamp(now)
    if times.seconds_since(since, now) >= rules.scale_down_stabilization_seconds:
        return Scale(target, None)
    return Scale(held, since)


def gauge(metrics: str, name: str, **labels: str) -> float | None:
    """Return the sum of a metric's samples with these labels in the Prometheus text format; None when there are none."""
    lines = re.findall(rf"^{re.escape(name)}(?:\{{([^}}]*)\}})?[ \t]+(\S+)", metrics, flags=re.MULTILINE)
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    chosen = [text for found, text in lines if set(wanted) <= set(found.split(","))]
    values = [value for text in chosen if (value := _number(text)) is not None]
    return sum(values) if values else None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
