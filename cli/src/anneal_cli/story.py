"""`why`: what happened to a resource in order of time, how it stands, and what a person may do about it."""

from collections.abc import Iterator
from dataclasses import dataclass

from anneal_api.base import ANNOTATION_RETRY, Condition
from anneal_api.finetunejob import Attempt, FineTuneJobStatus
from anneal_api.modeldeployment import ModelDeploymentStatus
from anneal_cli.kubectl import Object
from anneal_cli.overview import pending
from anneal_operator.finetunejob.causes import Cause

ADVICE: dict[str, str] = {
    Cause.USER_ERROR: "mend what the message names, and create the job anew or annotate it with a retry",
    Cause.OUT_OF_MEMORY: "lower spec.data.maxLength or spec.adapter.rank, or choose a larger spec.workers.accelerator; "
    "memory/ in the records says what was in use",
    Cause.CRASH: "read logs/ in the records: the last lines of the rank that failed first",
    Cause.PEER_LOST: "see what became of the node named; its kubelet's log tells why the pod went without a word",
    Cause.HANG: "read stacks/ and flight/ in the records: they show where each rank stood; a slow step needs a longer "
    "spec.faultPolicy.hangTimeoutSeconds",
    Cause.EVICTION: "nothing to mend: somebody drained the node or removed the pod",
    Cause.PREEMPTION: "give the job a higher spec.priorityClassName if it should not make way",
    Cause.NODE_LOST: "see what became of the node named",
    Cause.ACCELERATOR: "have the accelerator of the node named examined; it is left out for a while",
    Cause.STORAGE: "see whether the store is full or away",
    Cause.START_TIMEOUT: "ask for fewer spec.workers.nodes, set spec.workers.minNodes, or make room in the pool",
    Cause.KUEUE_EVICTION: "nothing to mend: the queue needed the quota",
    Cause.SUSPENDED: "clear spec.suspend to go on",
    Cause.RESIZED: "nothing to mend: the group made way for one of full size",
    Cause.UNKNOWN: "nothing is left to tell; the events of the node and of the namespace may",
}
"""What a person may do after each class of end."""


@dataclass(frozen=True)
class Step:
    """One thing that happened."""

    time: str
    what: str


@dataclass(frozen=True)
class Story:
    """What happened, how it stands, and what to do about it."""

    name: str
    phase: str
    steps: list[Step]
    standing: str
    advice: str


def story(resource: Object, events: list[Object]) -> Story:
    """Return the story of a FineTuneJob or ModelDeployment from its status and its events."""
    told = resource.get("status", {})
    name, uid = resource["metadata"]["name"], resource["metadata"]["uid"]
    own = [event for event in events if event["involvedObject"].get("uid") == uid]
    steps = [Step(resource["metadata"]["creationTimestamp"], "created"), *_events(own)]
    if resource["kind"] == "FineTuneJob":
        status = FineTuneJobStatus.model_validate(told)
        steps += [step for attempt in status.attempts for step in _attempt(attempt)]
        conditions, phase, advice = status.conditions, status.phase, _advice(status)
    else:
        served = ModelDeploymentStatus.model_validate(told)
        steps += [Step(v.since, f"version {v.run}: {v.stage} {v.message}".rstrip()) for v in served.versions]
        conditions, phase, advice = served.conditions, served.phase, ""
    steps += _conditions(conditions)
    ordered = sorted(dict.fromkeys(step for step in steps if step.time), key=lambda step: step.time)
    return Story(name, phase or "Pending", ordered, pending(conditions), advice)


def _attempt(attempt: Attempt) -> Iterator[Step]:
    who = f"attempt {attempt.number}"
    yield Step(attempt.started, f"{who} began on {attempt.nodes} nodes")
    if attempt.training:
        yield Step(attempt.training, f"{who} trained, first seen at step {attempt.first_step}")
    if attempt.ended and attempt.cause:
        node = f" on node {attempt.node}" if attempt.node else ""
        lost = f", {attempt.lost_steps} steps lost" if attempt.lost_steps else ""
        yield Step(
            attempt.ended,
            f"{who} ended: {attempt.cause}{node}{lost}; {attempt.message}; records: {attempt.records}",
        )


def _conditions(conditions: list[Condition]) -> Iterator[Step]:
    for each in conditions:
        yield Step(
            each.last_transition_time, f"{each.type}={each.status} {each.reason}: {each.message}".rstrip(": ")
        )


def _events(events: list[Object]) -> Iterator[Step]:
    for event in events:
        if event["type"] == "Warning":
            time = (
                event.get("lastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"]
            )
            yield Step(time, f"{event['reason']}: {event['message']}")


def _advice(status: FineTuneJobStatus) -> str:
    """Return what the end of the last attempt asks for; nothing once the run is complete."""
    ended = [attempt for attempt in status.attempts if attempt.ended and attempt.cause]
    if not ended or status.phase == "Complete":
        return ""
    text = ADVICE.get(ended[-1].cause, ADVICE[Cause.UNKNOWN])
    again = f'; then: kubectl annotate ftj NAME {ANNOTATION_RETRY}="$(date -Is)" --overwrite'
    return text + (again if status.phase == "Failed" else "")


def text(story: Story) -> str:
    """Return a story as a person reads it."""
    lines = [f"{step.time}  {step.what}" for step in story.steps]
    end = [f"now {story.phase}" + (f": {story.standing}" if story.standing else "")]
    advice = [f"what to do: {story.advice.replace(' NAME ', f' {story.name} ')}"] if story.advice else []
    return "\n".join([*lines, *end, *advice])
