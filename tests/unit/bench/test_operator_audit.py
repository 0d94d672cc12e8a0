"""What the audit log of the API server tells the operator's benchmark."""

import json
from collections import Counter
from pathlib import Path

import pytest
from operator_scale import audit, round
from operator_scale.__main__ import bursts, paces
from operator_scale.audit import Audit, name


def event(
    user: str, verb: str, resource: str, called: str = "", code: int = 201, at: int = 0, sub: str = ""
) -> str:
    place = {"resource": resource, "subresource": sub, "name": called}
    return json.dumps(
        {
            "user": {"username": user},
            "verb": verb,
            "objectRef": {key: value for key, value in place.items() if value},
            "responseStatus": {"code": code},
            "requestReceivedTimestamp": f"2026-01-01T00:00:{at:02d}.000000Z",
            "stageTimestamp": f"2026-01-01T00:00:{at:02d}.500000Z",
        }
    )


LINES = [
    event("driver", "patch", "finetunejobs", name(1), at=1),
    event("driver", "patch", "finetunejobs", name(2), at=2),
    event("anneal", "update", "finetunejobs", name(1), sub="status", at=3),
    event("anneal", "create", "jobs", f"{name(1)}-train-1-aa", code=409, at=3),
    event("anneal", "create", "jobs", f"{name(1)}-train-1-aa", at=4),
    event("anneal", "create", "jobs", f"{name(2)}-train-1-bb", at=5),
    event("anneal", "patch", "services", f"{name(1)}-train-cc", at=6),
    event("anneal", "patch", "services", f"{name(2)}-train-dd", at=7),
    event("system:serviceaccount:kube-system:job-controller", "create", "pods", at=8),
]


@pytest.fixture
def log(tmp_path: Path) -> Audit:
    (tmp_path / "audit.log").write_text("\n".join(LINES) + "\n" + LINES[0][:40])
    return Audit(tmp_path / "audit.log").read()


def test_writes_that_failed_and_half_a_line_do_not_count(log: Audit) -> None:
    assert audit.counted(log.of("anneal")) == {
        "update finetunejobs/status": 1,
        "create jobs": 2,
        "patch services": 2,
    }
    assert sorted(log.first("jobs")) == [name(1), name(2)]


def test_reading_on_adds_what_has_come_since(log: Audit) -> None:
    with log.path.open("a") as more:
        more.write(LINES[0][40:] + "\n" + LINES[-1] + "\n")
    before = len(log.writes)
    assert len(log.read().writes) == before + 2
    assert len(log.read().writes) == before + 2


def test_a_round_is_whole_with_every_job_service_and_pod(log: Audit) -> None:
    assert round.whole(log, 1)
    assert not round.whole(log, 2)


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(1, 101)]
    assert audit.percentile(values, 0.5) == 50.0
    assert audit.percentile(values, 0.99) == 99.0
    assert audit.percentile([3.0], 0.99) == 3.0


def made(seconds: float, statuses: int = 2) -> round.Round:
    return round.Round(
        latencies=[seconds, seconds],
        drained=2 * seconds,
        writes=Counter({"create jobs": 2}),
        statuses=[1, statuses],
        cpu=1.0,
        peak=100.0,
        server=1.0,
        load=1.0,
        reconciles=6.0,
    )


def test_targets_are_judged_by_the_median_round() -> None:
    theirs = [made(3.0)] * 3
    good = {f.figure: f.met for f in bursts([made(1.0), made(1.0), made(9.0)], theirs)}
    bad = {f.figure: f.met for f in bursts([made(1.1), made(1.1), made(0.1, statuses=3)], theirs)}
    for figure in ("rate of Trainer's", "Trainer's p99 over ours"):
        assert (good[figure], bad[figure]) == (True, False)
    assert [f.met for f in bursts([made(1.0, statuses=3)] * 3, theirs) if "status" in f.figure] == [False]
    assert [f.met for f in (*paces(made(0.9), made(5.0)), *paces(made(1.1), made(0.1)))] == [True, False]
