"""What the operator asks of a cluster; the tests' in-memory server speaks the same."""

from typing import Protocol

from anneal_operator.decision import Object


class Cluster(Protocol):
    """Plain objects in and out; every method may raise ApiError."""

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return an object as it is now, or None; the namespace of a Node is empty."""

    def recall(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return a FineTuneJob or ModelDeployment as it was last heard of, or None; it may be a while behind."""

    def select(self, kind: str, namespace: str | None, selector: str = "", fields: str = "") -> list[Object]:
        """Return all objects that a label selector, and a field selector where one is given, match."""

    def create(self, obj: Object) -> Object:
        """Make an object; raises AlreadyExists."""

    def apply(self, obj: Object) -> Object:
        """Make an object or take over the given fields of it (server-side apply)."""

    def delete(self, kind: str, namespace: str, name: str, uid: str, version: str = "") -> None:
        """Remove an object and, in the background, what it owns; raises Conflict if its UID is another, or its
        resourceVersion where one is given."""

    def update_status(self, obj: Object) -> Object:
        """Write the whole status; raises Conflict if the object is no longer at that resourceVersion."""

    def set_finalizers(self, obj: Object, finalizers: list[str]) -> Object:
        """Write the finalizers; raises Conflict if the object is no longer at that resourceVersion."""


class Pods(Protocol):
    """What pods answer on their own ports; for display and scaling alone."""

    def get(self, address: str, port: int, path: str) -> str | None:
        """Return a short answer, or None when there is none in time."""
