"""What others do to the operator's objects in the middle of a run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from api_server import Object, copied
from world import NAMESPACE, World


@dataclass(frozen=True)
class Meddler:
    """One kind of meddling, where it makes sense, and how many writes undo it."""

    act: Callable[[World], None]
    where: Mapping[str, Sequence[int]]
    """Ticks by scenario."""
    costs: int
    stays: str = ""
    """Field of the objects' metadata that stays as it was left."""


def recreate(world: World) -> None:
    """Delete the resource and make it again under the same name."""
    found = [(k, n) for k, _, n in world.server.objects if k in ("FineTuneJob", "ModelDeployment")]
    kind, name = found[0]
    held = world.resource(kind, name)
    world.server.remove(kind, NAMESPACE, name)
    meta = {"name": name, "namespace": NAMESPACE}
    world.server.put({**{field: held[field] for field in ("apiVersion", "kind", "spec")}, "metadata": meta})


def _stomp(world: World, kind: str, part: str, **fields: object) -> None:
    """Write metadata of the newest object of a kind and stage that is still in use."""
    found = [o for (k, _, n), o in world.server.objects.items() if k == kind and part in n]
    for obj in found[-1:]:
        meta = copied(obj)["metadata"] | fields
        world.server.replace_by_user({**copied(obj), "metadata": meta})


def unlabel(world: World) -> None:
    """Take the labels off the training Job."""
    _stomp(world, "Job", "-train-", labels={})


def disown(world: World) -> None:
    """Take the owner reference off the training Job."""
    _stomp(world, "Job", "-train-", ownerReferences=[])


def unlabel_plan(world: World) -> None:
    """Take the labels off the plan."""
    _stomp(world, "ConfigMap", "-plan-", labels={})


def drift(world: World) -> None:
    """Change the Service of the training group."""
    for (kind, _, _), obj in [*world.server.objects.items()]:
        if kind == "Service":
            spec: Object = {**copied(obj)["spec"], "publishNotReadyAddresses": False}
            world.server.put({**copied(obj), "spec": spec})


EARLY = ("changed-in-flight", "corrected", "extended", "late", "not-whole", "preempted", "queue-evicted", "queued",
         "result-lost", "shrunk-and-grown", "suspended", "suspended-preparing", "beyond-budget", "scaled",
         "taken-over")  # fmt: skip
"""What happens in these comes later than their first ticks."""
RECREATED = {
    **dict.fromkeys(("plain", "unmerged", "reused", "served"), range(1, 9)),
    **dict.fromkeys(EARLY, range(1, 4)),
}


def during(ticks: Sequence[int]) -> dict[str, Sequence[int]]:
    """Return the scenarios that train for long, with ticks within that time."""
    return dict.fromkeys(("changed-in-flight", "not-whole"), ticks)


MEDDLERS = {
    "recreated": Meddler(recreate, RECREATED, 0),
    "unlabelled": Meddler(unlabel, during(range(5, 9)), 1),
    "disowned": Meddler(disown, during(range(5, 9)), 1),
    "plan-unlabelled": Meddler(unlabel_plan, during(range(4, 9)), 0, "labels"),
    "drifted": Meddler(drift, during(range(5, 8)), 1),
}
