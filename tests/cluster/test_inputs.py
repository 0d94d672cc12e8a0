"""Bad input ends in a condition a person understands, before any accelerator is asked for, and is mended in place."""

import re

import pytest
from tests.cluster.conftest import finetunejob
from tests.cluster.kube import Json, Kube, condition, holds

pytestmark = pytest.mark.cluster
LETTERS = {"name": "letters", "data": {"uri": "pvc://store/data/letters.jsonl"}}


def task(uri: str) -> list[Json]:
    return [{"name": "letters", "data": {"uri": uri}}]


@pytest.mark.parametrize(
    ("name", "changes", "reason", "words"),
    [
        (
            "no-data",
            {"tasks": task("pvc://store/data/nowhere.jsonl")},
            "DatasetNotFound",
            ["task letters", "pvc://store/data/nowhere.jsonl", "spec.tasks[].data.uri"],
        ),
        (
            "wrong-rows",
            {"tasks": task("pvc://store/data/wrong.jsonl")},
            "InvalidRows",
            ["wrong.jsonl", "line 4", "expected"],
        ),
        (
            "no-model",
            {"baseModel": {"uri": "pvc://store/no-such-model"}},
            "ModelNotFound",
            ["pvc://store/no-such-model"],
        ),
        (
            "no-accelerator",
            {"workers": {"accelerator": "tpu-v9"}},
            "UnknownAccelerator",
            ["tpu-v9", "a100-80g", "cpu"],
        ),
        (
            "no-secret",
            {"output": {"uri": "pvc://store/artifacts", "secretRef": {"name": "no-such-secret"}}},
            "SecretMissing",
            ["no-such-secret"],
        ),
        (
            "does-not-fit",
            {"adapter": {"rank": 1024}, "workers": {"nodes": 2, "accelerator": "pocket"}},
            "DoesNotFit",
            ["pocket", "GiB of", "weights", "spec.adapter.rank"],
        ),
        (
            "no-suite",
            {"evaluation": {"suites": ["pvc://store/data/none.jsonl"]}},
            "NotFound",
            ["none.jsonl", "check the path"],
        ),
    ],
)
def test_bad_input_is_named_and_mended(
    team: Kube, name: str, changes: Json, reason: str, words: list[str]
) -> None:
    team.apply(finetunejob(name, **changes))

    def told(job: Json) -> bool:
        return any(c["reason"] == reason for c in job.get("status", {}).get("conditions", []))

    job = team.wait("finetunejob", name, told, 60, reason)
    message = next(c["message"] for c in job["status"]["conditions"] if c["reason"] == reason)
    assert [word for word in words if word not in message] == [], message
    said, _ = team.describe("finetunejob", name, reason)
    assert re.search(r"Phase: +(Refused|Inspecting)\n", said)
    assert all(word in said for word in (reason, *words))
    assert not team.list("jobs", f"anneal.dev/finetunejob={name},anneal.dev/stage in (prepare, train)")
    asked = [
        c["resources"].get("limits", {}).get("nvidia.com/gpu")
        for p in team.list("pods", f"anneal.dev/finetunejob={name}")
        for c in p["spec"]["containers"]
    ]
    assert not any(asked)
    undone = {field: finetunejob(name)["spec"].get(field) for field in changes}
    team.patch("finetunejob", name, {"spec": _replacing(changes, undone)})
    team.wait("finetunejob", name, holds("Inspected"), 60, "Inspected after the fix")
    assert condition(team.get("finetunejob", name), "Failed")["status"] != "True"
    team.run("delete", "finetunejob", name, "--wait=false")


def _replacing(changes: Json, undone: Json) -> Json:
    """Return a merge patch that takes `changes` back to `undone`, dropping keys that came with them."""

    def patch(new: object, old: object) -> object:
        if isinstance(new, dict) and isinstance(old, dict):
            return {k: patch(new.get(k), old.get(k)) for k in {*new, *old}}
        return old

    return dict(patch(changes, undone))  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data": {"split": {"train": 50, "validation": 10, "test": 10}}}, "split must add up to 100"),
        ({"optimization": {"epochs": 1, "maxSteps": 2}}, "set epochs or maxSteps, not both"),
        ({"tasks": [LETTERS, LETTERS]}, "letters"),
        ({"adapter": {"rank": 0}}, "greater than or equal to 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_api_server_refuses_what_no_run_could_mean(team: Kube, changes: Json, sentence: str) -> None:
    with pytest.raises(RuntimeError, match=sentence):
        team.apply(finetunejob("refused", **changes))
