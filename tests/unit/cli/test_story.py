"""The story of a failure: in order, ending with how it stands and what to do."""

from objects import STATUS, deployment, job

from anneal_cli import story
from anneal_operator.finetunejob.causes import Cause


def event(uid: str, kind: str, text: str) -> dict[str, object]:
    return {
        "type": kind,
        "reason": "NodeSuspect",
        "message": text,
        "involvedObject": {"uid": uid},
        "lastTimestamp": "2026-01-01T00:02:05Z",
        "metadata": {"creationTimestamp": "2026-01-01T00:02:05Z"},
    }


def test_a_failed_run_is_told_in_order_with_what_to_do() -> None:
    failed = job(status={**STATUS, "phase": "Failed"})
    events = [
        event(failed["metadata"]["uid"], "Warning", "node-3 is left out"),
        event("other", "Warning", "of another"),
    ]
    text = story.text(story.story(failed, events))
    lines = text.splitlines()
    assert [line.split("  ", 1)[1].split(" ended")[0] for line in lines[:4]] == [
        "created",
        "attempt 1 began on 2 nodes",
        "attempt 1 trained, first seen at step 1",
        "attempt 1",
    ]
    assert (
        "attempt 1 ended: Hang on node node-3, 6 steps lost; rank 1 stood still; records: pvc://store" in text
    )
    assert lines[-2] == "now Failed: RankKilled: rank 1 was killed"
    assert "stacks/" in lines[-1]
    assert "kubectl annotate ftj tune anneal.dev/retry=" in lines[-1]
    assert "left out" in text
    assert "of another" not in text


def test_a_run_that_goes_on_is_not_to_be_retried_by_hand() -> None:
    assert "annotate" not in story.text(story.story(job(), []))


def test_what_is_no_warning_is_no_part_of_it() -> None:
    made = job(status={})
    assert len(story.story(made, [event(made["metadata"]["uid"], "Normal", "x")]).steps) == 1


def test_a_refused_version_says_why() -> None:
    version = {
        "digest": "d",
        "run": "abc",
        "stage": "Refused",
        "since": "2026-01-03T00:00:00Z",
        "message": "KL 0.4",
    }
    assert "version abc: Refused KL 0.4" in story.text(story.story(deployment(versions=[version]), []))


def test_every_cause_has_advice() -> None:
    assert set(story.ADVICE) == set(Cause)
