"""A spec that contradicts itself is refused with every contradiction, its fields and what to do."""

from typing import Any

import pytest

from anneal_api.finetunejob import FineTuneJobSpec
from anneal_runtime.errors import Refused
from anneal_trainers import consistency


def spec(names: str = "ab", shares: tuple[float | None, ...] = (), **changes: Any) -> FineTuneJobSpec:
    tasks = [{"name": name, "data": {"uri": "file:///rows"}} for name in names]
    for task, share in zip(tasks, shares, strict=False):
        task["samplingShare"] = share  # type: ignore[assignment]
    fields = {"baseModel": {"uri": "file:///base"}, "tasks": tasks, "output": {"uri": "file:///out"}}
    return FineTuneJobSpec.model_validate(fields | changes)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"names": "aba"}, r"spec.tasks\[\].name: a is there 2 times; names must be unique"),
        (
            {"adapter": {"targets": ["q_proj", "v_proj", "q_proj"]}},
            "spec.adapter.targets: q_proj is there 2 times; names must be unique",
        ),
        ({"stages": [{"name": "s"}, {"name": "s"}]}, r"spec.stages\[\].name: s is there 2 times"),
        ({"stages": [{"name": "s", "tasks": ["a", "a"]}]}, r"spec.stages\[\].tasks of s: a is there 2 times"),
        (
            {"stages": [{"name": "s", "tasks": ["a", "c"]}]},
            r"spec.stages\[\].tasks: s names c; choose among a, b",
        ),
        (
            {"stages": [{"name": "s"}], "optimization": {"epochs": 2}},
            "spec.optimization.epochs: 2.0, and stages have epochs of their own; remove it",
        ),
        (
            {"stages": [{"name": "s"}], "optimization": {"maxSteps": 7}},
            "spec.optimization.maxSteps: 7, and stages have",
        ),
        ({"shares": (0.6, 0.5)}, r"spec.tasks\[\].samplingShare: .* 1.1, which is more than 1; lower"),
        ({"shares": (0.6, 0.3)}, "add up to 0.9, and every task has one; raise them to 1"),
        ({"shares": (1.0, None)}, "add up to 1, which leaves nothing for 1 tasks without one; lower"),
        (
            {"optimization": {"objective": "dpo"}, "data": {"overLength": "split"}},
            "spec.data.overLength: split .* choose truncate or drop",
        ),
        (
            {"data": {"filters": {"languages": {"html": 0.3, "klingon": 0.5}}}},
            "spec.data.filters.languages: klingon is no known language; choose among assembly, c, ",
        ),
        (
            {"names": "abc", "stages": [{"name": "s", "tasks": ["b"]}]},
            r"spec.stages\[\].tasks: no stage names a, c; add to a stage, or remove from spec.tasks",
        ),
        (
            {
                "optimization": {"earlyStopping": {"patience": 3}},
                "data": {"split": {"train": 90, "validation": 0, "test": 10}},
            },
            "earlyStopping.patience: 3, and spec.data.split.validation 0 .* set patience to 0 or",
        ),
    ],
)
def test_a_contradiction_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(Refused, match=told) as caught:
        consistency.check(spec(**given))
    assert caught.value.reason == "InvalidSpec"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"shares": (0.1, 0.9)},
        {"shares": (0.1, None)},
        {"names": "abc", "shares": (1 / 3, 1 / 3, 1 / 3)},
        {"stages": [{"name": "s", "tasks": ["b"]}, {"name": "t"}]},
        {"optimization": {"epochs": 2}},
        {"optimization": {"earlyStopping": {"patience": 3}}},
        {"data": {"split": {"train": 90, "validation": 0, "test": 10}}},
        {"data": {"overLength": "split"}},
    ],
)
def test_a_spec_without_contradictions_passes(given: dict[str, Any]) -> None:
    consistency.check(spec(**given))


def test_all_contradictions_are_told_at_once() -> None:
    with pytest.raises(Refused, match=r"spec.tasks\[\].name: a .*; spec.tasks\[\].samplingShare"):
        consistency.check(spec("aa", shares=(0.9, 0.9)))
