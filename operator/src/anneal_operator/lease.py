"""Who leads: one holder of a coordination.k8s.io Lease at a time, decided without trusting anybody else's clock.

A holder counts its time from before it asked for the Lease, a rival from after it saw the Lease change: whatever
their clocks say, the holder's time is over before the rival's patience is. Clocks need only run at the same speed.
"""

from dataclasses import dataclass
from datetime import datetime

from anneal_operator.decision import Object

DURATION = 20.0
"""Seconds for which a holder may write after it asked for the Lease."""
RENEW = 3.0
"""Seconds between renewals, and between a rival's looks."""
MARGIN = 10.0
"""With less than this left nothing is written: what is under way has ended, or is given up, before a rival begins."""
TAKEOVER = DURATION + RENEW
"""Seconds without a leader at most, when one dies without a word (and the API server answers at once)."""
MICROTIME = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True)
class Sighting:
    """A Lease as it was seen, and since when it has not changed, by this process's own clock."""

    lease: Object
    since: float


def sight(last: Sighting | None, lease: Object, now: float) -> Sighting:
    """Return the newest sighting; one that shows nothing new keeps its time."""
    same = last is not None and _version(last.lease) == _version(lease)
    return Sighting(lease, last.since if same and last else now)


def free(seen: Sighting, identity: str, now: float) -> bool:
    """Return whether `identity` may hold the Lease now: it does already, nobody does, or the holder is silent."""
    spec = seen.lease.get("spec", {})
    holder = spec.get("holderIdentity")
    return holder in (identity, "", None) or now - seen.since > spec.get("leaseDurationSeconds", DURATION)


def made(namespace: str, name: str, identity: str, wall: datetime) -> Object:
    """Return a new Lease."""
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"namespace": namespace, "name": name},
    }
    return held(lease, identity, wall)


def held(lease: Object, identity: str, wall: datetime) -> Object:
    """Return the Lease as its holder writes it: renewed, or taken over."""
    old, stamp = lease.get("spec", {}), wall.strftime(MICROTIME)
    spec = {**old, "holderIdentity": identity, "leaseDurationSeconds": int(DURATION), "renewTime": stamp}
    if old.get("holderIdentity") != identity:
        spec |= {"acquireTime": stamp, "leaseTransitions": old.get("leaseTransitions", -1) + 1}
    return {**lease, "spec": spec}


def released(lease: Object, wall: datetime) -> Object:
    """Return the Lease as its holder leaves it: nobody has to wait."""
    return {**lease, "spec": {**lease["spec"], "holderIdentity": "", "renewTime": wall.strftime(MICROTIME)}}


def _version(lease: Object) -> str:
    return str(lease["metadata"].get("resourceVersion", ""))
