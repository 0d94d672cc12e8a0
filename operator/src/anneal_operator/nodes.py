"""Nodes, reduced to what decides about groups: whether they are there, take pods, and report a broken accelerator.

An operator that watches single namespaces may not read nodes; everything here is then unknown, and pods' own
conditions have to do.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from anneal_operator import times
from anneal_operator.decision import Object

LOST_SECONDS = 10.0
"""How long a node may be NotReady; as long as its pods are tolerated there."""
ACCELERATOR_CONDITIONS = re.compile(r"gpu|xid|nvlink|dcgm|accelerat", re.I)
"""Types of conditions that node problem detectors and vendors' agents set for accelerators (EKS's node monitoring
agent: AcceleratedHardwareReady; GKE's and Azure's problem detectors: XidCriticalError, GPUMissing and the like)."""
POSITIVE = ("Ready", "Healthy")


@dataclass(frozen=True)
class NodeView:
    """A node."""

    name: str
    ready: bool
    since: str
    """When that last changed."""
    schedulable: bool
    fault: str
    """What its conditions say is wrong with its accelerators; empty when nothing is."""


def node_view(node: Object) -> NodeView:
    """Return what decisions need of a node."""
    status = node.get("status", {}).get("conditions", [])
    ready: Object = next((c for c in status if c["type"] == "Ready"), {})
    return NodeView(
        name=node["metadata"]["name"],
        ready=ready.get("status") == "True",
        since=ready.get("lastTransitionTime") or node["metadata"].get("creationTimestamp", ""),
        schedulable=not node.get("spec", {}).get("unschedulable"),
        fault="; ".join(_fault(c) for c in status if _broken(c)),
    )


def _broken(condition: Object) -> bool:
    if not ACCELERATOR_CONDITIONS.search(condition["type"]):
        return False
    bad = "False" if condition["type"].endswith(POSITIVE) else "True"
    return bool(condition["status"] == bad)


def _fault(condition: Object) -> str:
    return f"{condition['type']}: {condition.get('reason', '')} {condition.get('message', '')}".strip()


def lost(node: NodeView | None, now: datetime) -> bool:
    """Whether a node has been gone for long enough to give up on its pods; one that is unknown is not."""
    return node is not None and not node.ready and lost_in(node, now) <= 0


def lost_in(node: NodeView, now: datetime) -> float:
    """Return the seconds until a node that is NotReady counts as lost."""
    return LOST_SECONDS - times.seconds_since(node.since, now) if node.since else 0.0


def room(pool: Iterable[NodeView] | None, avoided: Collection[str] = ()) -> int | None:
    """Return how many nodes could take a pod of the group, busy ones included; None when nobody can tell."""
    if pool is None:
        return None
    return sum(n.ready and n.schedulable and not n.fault and n.name not in avoided for n in pool)
