"""What Kueue's contract for Jobs asks of ours, and what is shown of what it says."""

from typing import Any

from views import NOW, job, pod, status
from world import finetunejob

from anneal_api.finetunejob import Attempt, FineTuneJobSpec
from anneal_operator.draft import Draft
from anneal_operator.finetunejob import kueue

RAW: dict[str, Any] = {"metadata": {"name": "j", "labels": {"a": "b"}}, "spec": {"completions": 2}}


def spec(**fields: object) -> FineTuneJobSpec:
    return FineTuneJobSpec.model_validate(finetunejob(**fields)["spec"])


def test_a_queued_job_is_made_suspended_with_the_queues_label() -> None:
    made = kueue.queued(RAW, spec(queueName="gpus"))
    assert made["metadata"]["labels"] == {"a": "b", "kueue.x-k8s.io/queue-name": "gpus"}
    assert made["spec"] == {"suspend": True, "completions": 2}
    assert kueue.queued(RAW, spec()) == RAW


def test_a_job_waits_until_it_was_let_go_on_once() -> None:
    held, attempt = job(failed=False, suspend=True), Attempt(number=1)
    assert kueue.waits(held, attempt)
    assert not kueue.waits(held, Attempt(number=1, admitted=True))
    assert not kueue.waits(job(pod(), failed=False, suspend=True), attempt)
    assert not kueue.waits(job(failed=False), attempt)


def workload(*conditions: tuple[str, str, str]) -> dict[str, Any]:
    said = [{"type": t, "status": s, "reason": "Pending", "message": m} for t, s, m in conditions]
    return {"status": {"conditions": said}}


def test_the_condition_that_says_most_is_shown() -> None:
    draft = Draft({"metadata": {"name": "t", "namespace": "n", "uid": "u"}}, "FineTuneJob", status(), NOW)
    quota = ("QuotaReserved", "False", "no quota in cluster-queue")
    kueue.wait(draft, Attempt(number=3), "gpus", [workload(quota, ("Evicted", "False", "long ago"))])
    assert "no quota" in draft.status.conditions[0].message
    evicted = workload(quota, ("Evicted", "True", "preempted by another"))
    kueue.wait(draft, Attempt(number=3), "gpus", [evicted])
    (shown,) = draft.status.conditions
    assert (shown.status, shown.reason) == ("False", "Queued")
    assert "attempt 3 waits in LocalQueue gpus" in shown.message
    assert "preempted by another" in shown.message
    kueue.wait(draft, Attempt(number=3), "gpus", [])
    assert draft.status.conditions[0].message.endswith("for Kueue")
