"""A decision in the making: collects what policies want, and knows what is stored already."""

from datetime import datetime, timedelta
from typing import Generic, TypeVar

from anneal_api.base import API_VERSION, FINALIZER, wire
from anneal_api.finetunejob import FineTuneJobStatus
from anneal_api.modeldeployment import ModelDeploymentStatus
from anneal_operator import conditions, naming
from anneal_operator.decision import Decision, Deletion, Event, Object
from anneal_operator.observed import JobView

Status = TypeVar("Status", FineTuneJobStatus, ModelDeploymentStatus)


class Draft(Generic[Status]):
    """Collects one decision about `resource`; `status` is replaced as a whole, never changed in place."""

    def __init__(self, resource: Object, kind: str, status: Status, now: datetime) -> None:
        self.resource = resource
        self.kind = kind
        self.status: Status = status
        self.now = now
        self.events: list[Event] = []
        self.apply: list[Object] = []
        self.create: list[Object] = []
        self.claims = False
        self.delete: list[Deletion] = []
        self.finalizers: list[str] | None = None
        self.requeue_at: datetime | None = None

    @property
    def name(self) -> str:
        return str(self.resource["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.resource["metadata"]["namespace"])

    @property
    def uid(self) -> str:
        return str(self.resource["metadata"]["uid"])

    @property
    def generation(self) -> int:
        return int(self.resource["metadata"].get("generation", 0))

    @property
    def owner(self) -> Object:
        """The owner reference that every child carries."""
        return {
            "apiVersion": API_VERSION,
            "kind": self.kind,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": False,
        }

    def update(self, **fields: object) -> None:
        """Replace fields of the status."""
        self.status = self.status.model_copy(update=fields)

    def condition(
        self,
        type_: str,
        status: bool,
        reason: str,
        message: str = "",
        *,
        warning: bool = False,
        turn: int = 0,
        quiet: bool = False,
    ) -> None:
        """Set a condition; a change of its status or reason is also an Event, told once a `turn`, unless `quiet`."""
        old = conditions.find(self.status.conditions, type_)
        new = conditions.put(
            self.status.conditions, type_, status, reason, message, self.generation, self.now
        )
        self.update(conditions=new)
        text = "True" if status else "False"
        if not quiet and (old is None or (old.status, old.reason) != (text, reason)):
            title = type_ if status and not warning else reason
            once = (type_, text, reason, *([str(turn)] if turn else []))
            self.event(title, message or title, *once, warning=warning)

    def event(self, reason: str, message: str, *token: str, warning: bool = False) -> None:
        """Tell the user; the same `token` at the same generation is told once."""
        once = naming.short_hash(self.uid, self.generation, *token)
        self.events.append(Event(warning, reason, message, once))

    def remove(self, job: JobView) -> None:
        """Delete a Job with its pods, unless that is under way."""
        if not job.deleting:
            self.delete.append(Deletion("Job", self.namespace, job.name, job.uid, job.resource_version))

    def wake(self, seconds: float) -> None:
        """Look again after `seconds` at the latest."""
        due = self.now + timedelta(seconds=max(seconds, 0.1))
        self.requeue_at = due if self.requeue_at is None else min(due, self.requeue_at)

    def protect(self, wanted: bool) -> None:
        """Hold or release the resource with the artifacts' finalizer."""
        held: list[str] = list(self.resource["metadata"].get("finalizers", []))
        if wanted and FINALIZER not in held:
            self.finalizers = [*held, FINALIZER]
        elif not wanted and FINALIZER in held:
            self.finalizers = [f for f in held if f != FINALIZER]

    def decision(self) -> Decision:
        """Return what was collected."""
        status = wire(self.status.model_copy(update={"observed_generation": self.generation}))
        changed = status != self.resource.get("status")
        return Decision(
            finalizers=self.finalizers,
            events=self.events,
            status=status if changed else None,
            delete=self.delete,
            apply=self.apply,
            create=self.create,
            claims=self.claims,
            requeue_at=self.requeue_at,
        )
