"""The parts of a scale-up out of what watches and logs tell."""

import json

import pytest
from tests.cluster import scaling
from tests.cluster.kube import Json
from tests.cluster.scaling import Heard

POD: Json = {"metadata": {"name": "new"}, "status": {"podIP": "10.0.0.2"}}


def pod(name: str, **conditions: str) -> Json:
    found = [{"type": kind, "status": status} for kind, status in conditions.items()]
    return {"object": {"metadata": {"name": name}, "status": {"conditions": found}}}


def event(reason: str, name: str = "new") -> Json:
    return {"object": {"involvedObject": {"name": name}, "reason": reason, "metadata": {"name": "e"}}}


def told() -> Heard:
    return Heard(
        deployments=[
            (5.0, {"object": {"status": {"desiredReplicas": 2}}}),
            (11.0, {"object": {}}),
            (13.0, {"object": {"status": {"desiredReplicas": 2}}}),
        ],
        pods=[
            (9.0, pod("old", PodScheduled="True", Ready="True")),
            (13.5, pod("new")),
            (14.0, pod("new", PodScheduled="True")),
            (21.0, pod("new", PodScheduled="True", Ready="False")),
            (26.0, pod("new", PodScheduled="True", Ready="True")),
        ],
        events=[(13.0, event("Pulled", "old")), (14.5, event("Pulled")), (14.2, event("Started"))],
    )


def test_each_part_is_from_one_moment_to_the_next() -> None:
    made = scaling.moments(told(), POD, 10.0, 2, 22.0, 27.5)
    assert made == [10.0, 13.0, 13.5, 14.0, 14.5, 14.5, 22.0, 26.0, 27.5]
    lines = scaling.rows(made)
    assert lines[0].startswith("| decided | 3.0 |")
    assert lines[4].startswith("| started | 0.0 |"), "told late"
    assert lines[-1].startswith("| in all | 17.5 |")


def test_a_moment_that_was_never_told_is_named() -> None:
    silent = Heard(told().deployments, told().pods[:2], told().events)
    with pytest.raises(AssertionError, match=r"new was \['scheduled', 'ready'\]"):
        scaling.moments(silent, POD, 10.0, 2, 22.0, 27.5)


def test_the_models_loading_is_read_from_the_replicas_log() -> None:
    log = (
        "2026-11-22T04:04:26.5Z \"successfully loaded 'preprocessing'\"\n"
        "2026-11-22T04:04:30.123456789Z \"successfully loaded 'tensorrt_llm'\"\n"
    )
    assert scaling.loaded_at(log) == pytest.approx(1795320270.123456)


def test_the_first_token_is_the_earliest_of_that_replica() -> None:
    line = {"message": "request", "replica": "10.0.0.2:8001", "seconds": 4.0, "firstTokenSeconds": 1.5}
    lines = [
        {**line, "time": "2026-11-22T04:04:34.000Z"},
        {**line, "time": "2026-11-22T04:04:35.000Z", "seconds": 8.0},
        {**line, "time": "2026-11-22T04:04:31.000Z", "replica": "10.0.0.1:8001"},
        {**line, "time": "2026-11-22T04:04:30.000Z", "firstTokenSeconds": None},
        {"message": "route", "time": "2026-11-22T04:04:20.000Z"},
    ]
    log = "\n".join(map(json.dumps, lines))
    assert scaling.first_token(log, "10.0.0.2:8001") == pytest.approx(1795320268.5)
    assert scaling.first_token(log, "10.0.0.3:8001") is None
