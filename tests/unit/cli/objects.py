"""Resources and what a store tells, as the commands' tests need them."""

import io
from typing import Any

from anneal_api.artifacts import Manifest, Producer
from anneal_api.runs import FineTuneRun
from anneal_operator import plan

UID = "01234567-0000-0000-0000-000000000000"
STORE = "pvc://store/artifacts"
SPEC: dict[str, Any] = {
    "baseModel": {"uri": "pvc://models/base"},
    "tasks": [
        {"name": "write", "data": {"uri": "pvc://data/write.jsonl"}},
        {"name": "read", "data": {"uri": "pvc://data/read.jsonl"}},
    ],
    "workers": {"nodes": 2, "accelerator": "cpu"},
    "output": {"uri": STORE, "secretRef": {"name": "store-keys"}},
}
STATUS: dict[str, Any] = {
    "phase": "Training",
    "restarts": 1,
    "nodes": 2,
    "progress": {
        "step": 40,
        "totalSteps": 80,
        "percent": 50,
        "loss": "1.25",
        "validationLoss": "1.5",
        "taskLosses": {"write": "1.4", "read": "1.6"},
        "timeLeftSeconds": 3725,
    },
    "conditions": [
        {
            "type": "Training",
            "status": "False",
            "reason": "RankKilled",
            "message": "rank 1 was killed",
            "lastTransitionTime": "2026-01-01T00:02:00Z",
        }
    ],
    "attempts": [
        {
            "number": 1,
            "nodes": 2,
            "cause": "Hang",
            "reason": "Hang",
            "message": "rank 1 stood still",
            "node": "node-3",
            "records": f"{STORE}/demo/runs/tune-01234567/attempt-1",
            "started": "2026-01-01T00:00:00Z",
            "training": "2026-01-01T00:00:30Z",
            "ended": "2026-01-01T00:02:00Z",
            "firstStep": 1,
            "step": 46,
            "lostSteps": 6,
        }
    ],
}


def job(name: str = "tune", status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """Return a FineTuneJob."""
    meta = {"name": name, "namespace": "demo", "uid": UID, "creationTimestamp": "2025-12-31T23:59:00Z"}
    held = STATUS if status is None else status
    return {"kind": "FineTuneJob", "metadata": meta, "spec": {**SPEC, **spec}, "status": held}


def deployment(**status: Any) -> dict[str, Any]:
    """Return a ModelDeployment."""
    meta = {"name": "serve", "namespace": "demo", "uid": "m", "creationTimestamp": "2026-01-02T00:00:00Z"}
    return {
        "kind": "ModelDeployment",
        "metadata": meta,
        "spec": {"model": {"fineTuneJobRef": {"name": "tune"}}},
        "status": status,
    }


def steps(count: int = 100) -> list[dict[str, Any]]:
    """Return a ledger whose second attempt went on after step 40."""
    return [
        {
            "step": step,
            "loss": 2 / step,
            "task_losses": {"write": 3 / step, **({"read": 1.0} if step % 2 else {})},
            "learning_rate": step * 1e-5,
            "attempt": 1 if step <= 40 else 2,
        }
        for step in range(1, count + 1)
    ]


SAMPLES = [
    {
        "task": "write",
        "file": "a-file-with-a-name-that-is-long-and-has-no-place-to-break-at-all/within/another.py",
        "line": 7,
        "what": "changed",
        "before": "<script>console.error(1)</script>mail <EMAIL>" + "wide" * 200,
        "after": "mail",
    },
    {"task": "read", "file": "b.jsonl", "line": 1, "what": "tooShort", "before": "x = 1", "after": ""},
]
"""Rows that the report of a data set shows."""


def plan_map() -> dict[str, Any]:
    """Return the ConfigMap with the plan of `job()`."""
    profile = {"name": "cpu", "memoryGib": 8, "overlay": {"imagePullSecrets": ["pull"]}}
    run = FineTuneRun.model_validate(
        {"namespace": "demo", "name": "tune", "uid": UID, "spec": SPEC, "accelerator": profile}
    )
    owner = {"kind": "FineTuneJob", "uid": UID}
    meta = {
        "name": "tune-plan",
        "ownerReferences": [owner],
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "uid": "c",
    }
    images = '{"trainers":"anneal/trainers@sha256:1","serving":"anneal/serving@sha256:2"}'
    return {"metadata": meta, "data": {plan.RUN_KEY: plan.text(run), plan.IMAGES_KEY: images}}


def told(kind: str, key: str, uid: str = UID, **inputs: str) -> dict[str, Any]:
    """Return what a store tells of an artifact."""
    producer = Producer(kind="FineTuneJob", name="tune", uid=uid)
    manifest = Manifest.model_validate(
        {"kind": kind, "key": key, "producer": producer, "inputs": inputs, "files": []}
    )
    return {
        "uri": f"{STORE}/demo/{kind}/{key}",
        "digest": manifest.digest,
        "bytes": 2**20,
        "manifest": manifest.model_dump(by_alias=True),
    }


class Terminal(io.StringIO):
    """What somebody looks at."""

    def isatty(self) -> bool:
        return True
