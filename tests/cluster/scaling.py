"""From a step in the load to the first token of the replica that it brings: where the time goes.

Watches tell what the API server knows, the replica's log when its model was loaded, the gateways' logs when it first answered; all
by the one clock of the machine that the local cluster's nodes are on.
"""

import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from tests.cluster.kube import Json, Kube, condition
from tests.cluster.witness import Watch, epoch

LOADED = "successfully loaded 'tensorrt_llm'"
"""As Triton logs it."""
PARTS = (
    ("decided", "the autoscaler has looked, and asks for more"),
    ("made", "its pod is made"),
    ("scheduled", "a node is chosen"),
    ("pulled", "the image is on the node"),
    ("started", "volumes are mounted, the container runs"),
    ("loaded", "Triton has started, the engine is opened, verified and compiled"),
    ("ready", "warmed up, and found ready by the kubelet"),
    ("token", "the gateways have learned of it, and it has read a prompt"),
)
"""Moments after the load began, and what has happened by then."""

Told = Sequence[tuple[float, Json]]
"""Events of a watch, each with when it was heard."""


@dataclass(frozen=True)
class Heard:
    """What watches told of a deployment, of pods, and of events about them."""

    deployments: Told
    pods: Told
    events: Told


@contextmanager
def heard(team: Kube) -> Iterator[Heard]:
    """Listen to a namespace."""
    core, ours = (
        f"/api/v1/namespaces/{team.namespace}",
        f"/apis/anneal.dev/v1alpha1/namespaces/{team.namespace}",
    )
    watches = [Watch(path) for path in (f"{ours}/modeldeployments", f"{core}/pods", f"{core}/events")]
    try:
        yield Heard(*(watch.seen for watch in watches))
    finally:
        for watch in watches:
            watch.close()


def moments(told: Heard, pod: Json, began: float, replicas: int, loaded: float, token: float) -> list[float]:
    """Return when the load began, and each moment of PARTS. One that was told late counts as that of the one before.

    Args:
        pod: the new replica's.
        replicas: how many the load asks for.
        loaded, token: from logs.

    Raises:
        AssertionError: a moment was never told.
    """
    name = pod["metadata"]["name"]

    def its(event: Json) -> bool:
        return bool(event["object"]["metadata"]["name"] == name)

    def about(reason: str) -> Callable[[Json], bool]:
        def check(event: Json) -> bool:
            found = event["object"]
            return found.get("involvedObject", {}).get("name") == name and found.get("reason") == reason

        return check

    def holds(kind: str) -> Callable[[Json], bool]:
        return lambda event: its(event) and condition(event["object"], kind)["status"] == "True"

    found = {
        "decided": _first(told.deployments, lambda e: _desired(e["object"]) >= replicas, began),
        "made": _first(told.pods, its, began),
        "scheduled": _first(told.pods, holds("PodScheduled"), began),
        "pulled": _first(told.events, about("Pulled"), began),
        "started": _first(told.events, about("Started"), began),
        "loaded": loaded,
        "ready": _first(told.pods, holds("Ready"), began),
        "token": token,
    }
    silent = [part for part, at in found.items() if at is None]
    assert not silent, f"nothing told when {name} was {silent}"
    made = [began]
    for part, _ in PARTS:
        made.append(max(made[-1], found[part] or 0.0))
    return made


def _first(told: Told, matches: Callable[[Json], bool], since: float) -> float | None:
    return next((at for at, event in told if at >= since and matches(event)), None)


def _desired(deployment: Json) -> int:
    return int(deployment.get("status", {}).get("desiredReplicas", 0))


def loaded_at(log: str) -> float:
    """Return when a replica had loaded its model, from its log with timestamps."""
    line = next(line for line in log.splitlines() if LOADED in line)
    return epoch(line.partition(" ")[0])


def first_token(log: str, address: str) -> float | None:
    """Return when the replica at `address` gave its first token, from a gateway's log; None before an answer has ended."""
    lines = [json.loads(line) for line in log.splitlines() if '"message": "request"' in line]
    given = [_given(line) for line in lines if line["replica"] == address and line["firstTokenSeconds"]]
    return min(given, default=None)


def _given(line: Json) -> float:
    ended = datetime.fromisoformat(line["time"].replace("Z", "+00:00")).timestamp()
    return float(ended - line["seconds"] + line["firstTokenSeconds"])


def answered(team: Kube, gateways: Sequence[str], address: str, seconds: float = 120) -> float:
    """Wait until the replica at `address` has answered; return when its first token came."""
    deadline = time.monotonic() + seconds
    while True:
        told = [first_token(team.run("logs", name), address) for name in gateways]
        if known := [at for at in told if at is not None]:
            return min(known)
        assert time.monotonic() < deadline, f"{address} has answered nothing\n{team.story()}"
        time.sleep(1)


def rows(made: Sequence[float]) -> list[str]:
    """Return the lines of the table in docs/reliability.md: each part's seconds, and all of them."""
    spent = [after - before for before, after in itertools.pairwise(made)]
    parts = [
        f"| {name} | {seconds:.1f} | {what} |" for (name, what), seconds in zip(PARTS, spent, strict=True)
    ]
    return [*parts, f"| in all | {made[-1] - made[0]:.1f} | load step to first token of the new replica |"]
