"""Reads what a FineTuneJob's decision looks at."""

from datetime import datetime

from pydantic import ValidationError

from anneal_api.base import LABEL_JOB
from anneal_api.runs import PROGRESS_PORT, Progress
from anneal_operator import times
from anneal_operator.cluster.interface import Cluster, Pods
from anneal_operator.decision import Object
from anneal_operator.finetunejob.observe import Observed
from anneal_operator.finetunejob.training import PROGRESS_SECONDS
from anneal_operator.gathering import read_children
from anneal_operator.observed import Children


class Gatherer:
    """Remembers only when it last asked a group for its progress, so that the status is not written too often."""

    def __init__(self, cluster: Cluster, pods: Pods) -> None:
        self._cluster = cluster
        self._pods = pods
        self._asked: dict[str, datetime] = {}

    def gather(self, resource: Object, now: datetime) -> Observed:
        """Return the FineTuneJob as it is now."""
        found = read_children(self._cluster, resource, LABEL_JOB)
        return Observed(resource, found, self._progress(resource["metadata"]["uid"], found, now))

    def _progress(self, uid: str, found: Children, now: datetime) -> Progress | None:
        active = [job for job in found.of_stage("train") if job.active and not job.deleting]
        first = [
            p for job in active[-1:] for p in job.pods if p.index == 0 and p.address and p.phase == "Running"
        ]
        if not first:
            self._asked.pop(uid, None)
            return None
        last = self._asked.get(uid)
        if last and times.seconds_since(times.stamp(last), now) < PROGRESS_SECONDS - 1:
            return None
        self._asked[uid] = now
        answer = self._pods.get(first[0].address, PROGRESS_PORT, "/progress")
        return _parse(answer) if answer else None


def _parse(answer: str) -> Progress | None:
    try:
        return Progress.model_validate_json(answer)
    except ValidationError:
        return None
