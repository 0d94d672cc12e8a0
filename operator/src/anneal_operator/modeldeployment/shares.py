"""How traffic and replicas are divided between the old version and the new one: the strategies of spec.rollout."""

import math
from dataclasses import dataclass

from anneal_api.modeldeployment import Rollout


@dataclass(frozen=True)
class Replicas:
    """Replicas of either version."""

    old: int
    new: int


def following(rules: Rollout, percent: int) -> int:
    """Return the share of traffic that comes after `percent`; the last is all of it."""
    return next((step for step in rules.steps if step > percent), 100)


def replicas(rules: Rollout, count: int, percent: int) -> Replicas:
    """Return the replicas while the new version has `percent` of the traffic and `count` carry the load.

    surge: the old version keeps all of its own. borrowReplica: what the new one gets the old one gives, though
    both keep one as long as both have traffic and there are two. recreate: the old one gives all at once.
    """
    if rules.strategy == "recreate" or percent == 100:
        return Replicas(count if rules.strategy == "surge" else 0, count)
    new = math.ceil(count * percent / 100)
    if rules.strategy == "surge":
        return Replicas(count, new)
    borrowed = min(new, max(1, count - 1)) if count else 0
    return Replicas(count - borrowed, borrowed)
