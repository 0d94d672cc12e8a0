"""Content keys change with what changes a stage's output, and with nothing else."""

import pytest

from anneal_api.artifacts import File, Manifest, finetune_keys
from anneal_api.finetunejob import FineTuneJobSpec
from anneal_api.outcome import FineTuneKeys

SPEC = {
    "baseModel": {"uri": "pvc://store/base"},
    "tasks": [{"name": "a", "data": {"uri": "pvc://store/a.jsonl"}}],
    "output": {"uri": "pvc://store"},
}


def keys(base: str = "sha256:1", rows: str = "sha256:2", **changes: object) -> FineTuneKeys:
    return finetune_keys(FineTuneJobSpec.model_validate({**SPEC, **changes}), base, {"a": rows})


@pytest.mark.parametrize(
    "changes",
    [
        {"workers": {"nodes": 8}},
        {"faultPolicy": {"maxRestarts": 9}},
        {"output": {"uri": "pvc://store", "deletionPolicy": "Delete"}},
        {"suspend": True},
        {"baseModel": {"uri": "pvc://elsewhere/base"}},
    ],
    ids=str,
)
def test_what_does_not_change_the_output_changes_no_key(changes: dict[str, object]) -> None:
    assert keys(**changes) == keys()


def test_training_options_keep_the_prepared_data() -> None:
    changed = keys(optimization={"learningRate": 1e-3})
    assert changed.prepare == keys().prepare
    assert changed.train != keys().train
    assert changed.export != keys().export


@pytest.mark.parametrize("inputs", [{"base": "sha256:9"}, {"rows": "sha256:9"}, {"data": {"maxLength": 64}}])
def test_inputs_change_every_key(inputs: dict[str, object]) -> None:
    changed, first = keys(**inputs).model_dump(), keys().model_dump()  # type: ignore[arg-type]
    assert not set(changed.values()) & set(first.values())


def test_problems_that_rows_are_cleaned_of_go_by_content() -> None:
    def prepared(path: str, digest: str) -> str:
        spec = FineTuneJobSpec.model_validate({**SPEC, "data": {"decontaminate": [path]}})
        return finetune_keys(spec, "b", {"a": "r"}, suite_digests=[digest]).prepare

    assert prepared("file:///x.jsonl", "1") == prepared("file:///y.jsonl", "1")
    assert prepared("file:///x.jsonl", "1") != prepared("file:///x.jsonl", "2")


def test_a_manifest_has_one_digest_however_it_was_read() -> None:
    manifest = Manifest(
        kind="adapter", key="k", files=[File(path="a", size=1, sha256="0")], metadata={"b": 1, "a": 2}
    )
    assert Manifest.model_validate_json(manifest.dump()).digest == manifest.digest
