"""What a deployment has cost: accelerators times seconds that pods of its replicas and its building stages held them.

What is held now is kept beside the sum and the moment up to which it is charged, so that nothing is lost when the
operator is away, and a look at which nothing has changed writes nothing.
"""

from collections.abc import Iterator
from datetime import datetime

from anneal_api.base import LABEL_STAGE, LABEL_VERSION
from anneal_api.modeldeployment import ModelDeploymentStatus
from anneal_api.profiles import OperatorConfig
from anneal_operator import times
from anneal_operator.draft import Draft
from anneal_operator.modeldeployment import build, resources
from anneal_operator.modeldeployment.observe import Observed
from anneal_operator.observed import PodView

EVERY = 900.0
"""Seconds after which a sum is brought up to date though nothing has changed: a write of the status."""


def charge(draft: Draft[ModelDeploymentStatus], observed: Observed, config: OperatorConfig) -> None:
    """Bring the sum up to date where what is held has changed, or where that was long ago."""
    held = _held(draft, observed, config)
    since = draft.status.charged_until
    elapsed = times.seconds_since(since, draft.now) if since else 0.0
    if held != draft.status.accelerators or elapsed >= EVERY:
        draft.status = charged(draft.status, held, draft.now)
        elapsed = 0.0
    if held:
        draft.wake(EVERY - elapsed)


def charged(status: ModelDeploymentStatus, held: int, now: datetime) -> ModelDeploymentStatus:
    """Return the status with all that was held up to `now` in its sum, and `held` from now on."""
    until = times.stamp(now)
    since = status.charged_until
    seconds = max(0, round(times.seconds_since(since, times.parse(until)))) if since else 0
    return status.model_copy(
        update={
            "accelerator_seconds": status.accelerator_seconds + seconds * status.accelerators,
            "accelerators": held,
            "charged_until": until if held else None,
        }
    )


def _held(draft: Draft[ModelDeploymentStatus], observed: Observed, config: OperatorConfig) -> int:
    """Return the accelerators of all pods that have a node and have not ended."""
    asked = {
        version.run: resources.accelerators(site)
        for version in draft.status.versions
        if (site := build.site_of(draft, observed, version.run, config))
    }
    return sum(
        asked.get(pod.labels.get(LABEL_VERSION, ""), {}).get(pod.labels.get(LABEL_STAGE, ""), 0)
        for pod in _pods(observed)
        if pod.node and not pod.over
    )


def _pods(observed: Observed) -> Iterator[PodView]:
    yield from observed.children.pods
    for job in observed.children.jobs.values():
        yield from job.pods
