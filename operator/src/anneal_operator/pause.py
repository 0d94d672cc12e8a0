"""The annotation anneal.dev/pause-reconcile: while its value is `true` the operator touches nothing of a resource.

    kubectl annotate ftj NAME anneal.dev/pause-reconcile=true

Pods that run go on running; nothing is made, removed or scaled, and no fault is answered. Deleting goes on all the same.
"""

from typing import Any

from anneal_api.base import ANNOTATION_PAUSE, Condition
from anneal_operator import conditions
from anneal_operator.draft import Draft

CONDITION = "Reconciled"


def holds(draft: Draft[Any]) -> bool:
    """Say whether the resource is paused, in its status too; the caller then decides nothing else."""
    if draft.resource["metadata"].get("annotations", {}).get(ANNOTATION_PAUSE) == "true":
        text = f"the annotation {ANNOTATION_PAUSE} is true: nothing is done until it is removed"
        draft.condition(CONDITION, False, "Paused", text)
        return True
    if conditions.find(draft.status.conditions, CONDITION):
        kept: list[Condition] = [c for c in draft.status.conditions if c.type != CONDITION]
        draft.update(conditions=kept)
        draft.event("Resumed", f"the annotation {ANNOTATION_PAUSE} is gone", "resumed", str(draft.now))
    return False
