"""The annotation anneal.dev/rollback: as long as it names a version, that version does not serve.

    kubectl annotate modeldeployment NAME anneal.dev/rollback="$(kubectl get ... -o jsonpath='{.status.versions[-1].run}')"

A rollout that is under way ends at once; a version that serves makes way for the one before it, without steps.
"""

from anneal_api.base import ANNOTATION_ROLLBACK
from anneal_api.modeldeployment import ModelDeploymentStatus, ServedVersion
from anneal_operator.decision import Object
from anneal_operator.draft import Draft
from anneal_operator.modeldeployment import versions

HELD = f"held back by the annotation {ANNOTATION_ROLLBACK}"


def held(resource: Object, version: ServedVersion) -> bool:
    """Return whether a version shall not serve."""
    named = resource["metadata"].get("annotations", {}).get(ANNOTATION_ROLLBACK, "")
    return named != "" and named in (version.run, version.digest)


def instead(draft: Draft[ModelDeploymentStatus], version: ServedVersion) -> str:
    """Return the identity of the version that shall serve in place of one that is held back."""
    serving = versions.at(draft.status, "Serving")
    if version not in serving:
        return serving[0].run if serving else ""
    earlier = _earlier(draft, version)
    if earlier is None:
        text = f"{version.run} goes on serving: no version that has served before it is left"
        draft.event("NoEarlierVersion", text, "rollback", version.run, warning=True)
        return version.run
    if earlier.stage != "Starting":
        versions.move(draft, earlier, "Starting")
    return earlier.run


def _earlier(draft: Draft[ModelDeploymentStatus], version: ServedVersion) -> ServedVersion | None:
    """Return the version that served last before, or is about to again."""
    fit = ("Starting", "Draining", "Retired")
    known = [
        v for v in draft.status.versions if v.stage in fit and not held(draft.resource, v) and v != version
    ]
    return max(known, key=lambda v: (v.stage == "Starting", v.since), default=None)
