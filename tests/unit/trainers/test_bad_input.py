"""Every bad input ends its stage with 64 and an error that names the field, the value and what to do."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from anneal_api.base import wire
from anneal_api.outcome import Outcome
from anneal_trainers import inspect_stage, prepare, train
from anneal_trainers.pod import channel

CONFIG, TOKENS, GENERATION = "config.json", "tokenizer_config.json", "generation_config.json"
Spec = dict[str, Any]


def told(folder: Path, run: Spec, monkeypatch: pytest.MonkeyPatch, stage: Callable[[], int]) -> str:
    """Run a stage as a pod does; return what it says after it has ended with 64."""
    (folder / "run.json").write_text(json.dumps(run))
    monkeypatch.setenv("ANNEAL_RUN", str(folder / "run.json"))
    monkeypatch.setenv("ANNEAL_TERMINATION_LOG", str(folder / "log"))
    assert stage() == 64
    outcome = Outcome.model_validate_json((folder / "log").read_bytes())
    assert outcome.verdict == "Refused"
    return f"{outcome.reason}: {outcome.message}"


def changed(folder: Path, model: Path, name: str, **values: Any) -> Spec:
    """Return the spec's part that names a copy of the model, of whose file `name` some values are others."""
    shutil.copytree(model, folder / "base")
    file = folder / "base" / name
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return {"baseModel": {"uri": f"file://{folder}/base"}}


def rows(folder: Path, lines: str, **task: Any) -> Spec:
    (folder / "rows.jsonl").write_text(lines)
    return {"tasks": [{"name": "t", "data": {"uri": f"file://{folder}/rows.jsonl"}} | task]}


def wrong_key(folder: Path, model: Path) -> Spec:
    return {"optimization": {"lerningRate": 0.1}}


def empty_task(folder: Path, model: Path) -> Spec:
    return rows(folder, "")


def two_of_a_name(folder: Path, model: Path) -> Spec:
    return {"tasks": rows(folder, '{"text": "one"}')["tasks"] * 2}


def no_sentinels(folder: Path, model: Path) -> Spec:
    return rows(folder, '{"text": "one"}', fim={"rate": 0.5, "tokens": "deepseek"})


def infill_without_sentinels(folder: Path, model: Path) -> Spec:
    (folder / "suite.jsonl").write_text('{"prefix": "a", "suffix": "c", "middle": "b"}\n')
    return {"evaluation": {"suites": [f"file://{folder}/suite.jsonl"]}}


def no_end_token(folder: Path, model: Path) -> Spec:
    spec = changed(folder, model, TOKENS, eos_token="<none>")
    (folder / "base" / GENERATION).unlink()
    return spec


def unknown_family(folder: Path, model: Path) -> Spec:
    return changed(folder, model, CONFIG, architectures=["MambaForCausalLM"])


def adapter_of_another_base(folder: Path, model: Path) -> Spec:
    header = {"__metadata__": {"base_digest": "sha256:another"}}
    content = json.dumps(header).encode()
    (folder / "adapter").mkdir()
    file = folder / "adapter" / "adapter_model.safetensors"
    file.write_bytes(len(content).to_bytes(8, "little") + content)
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none"}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    return {"adapter": {"rank": 4, "alpha": 8, "initFrom": f"file://{folder}/adapter"}}


@pytest.mark.parametrize(
    ("spoil", "reason", "named"),
    [
        (wrong_key, "InvalidRun", ["spec.optimization.lerningRate", "found 0.1", "correct or remove"]),
        (
            empty_task,
            "InvalidRows",
            ["task t", "rows.jsonl holds no rows", "spec.tasks[].data.uri or remove"],
        ),
        (two_of_a_name, "InvalidSpec", ["spec.tasks[].name: t is there 2 times", "rename or remove"]),
        (no_sentinels, "FimTokens", ["spec.tasks[].fim.tokens: deepseek in task t", "choose added"]),
        (
            infill_without_sentinels,
            "NoInfill",
            ["spec.evaluation.suites", "problems of infilling", "give a task spec.tasks[].fim"],
        ),
        (no_end_token, "NoEosToken", ["spec.baseModel", "<none> as eos_token", "name one there that it has"]),
        (unknown_family, "UnsupportedModel", ["spec.baseModel", "MambaForCausalLM", "name a model of one"]),
        (
            adapter_of_another_base,
            "AdapterMismatch",
            ["spec.adapter.initFrom: file://", "on the base sha256:another", "name that base, or an adapter"],
        ),
    ],
    ids=lambda case: getattr(case, "__name__", ""),
)
def test_inspection_tells_field_value_and_remedy(
    make_run: Any,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path, Path], Spec],
    reason: str,
    named: list[str],
) -> None:
    run = wire(make_run(inspected=False))
    run["spec"] |= spoil(tmp_path, tiny)
    said = told(tmp_path, run, monkeypatch, inspect_stage.main)
    assert said.startswith(f"{reason}: ")
    assert [part for part in named if part not in said] == []


@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_training_tells_which_weights_are_no_numbers(
    make_run: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Inspection reads no weights: a rank finds them as it loads the base, before its first step."""
    shutil.copytree(tiny, tmp_path / "base")
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = math.nan
    save_file(tensors, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    run = make_run(baseModel={"uri": f"file://{tmp_path}/base"}, adapter={"type": kind, "rank": 4})
    prepare.prepare(run)
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"), ("ANNEAL_MEET", "-")):
        monkeypatch.setenv(name, value)
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(channel.Channel, "send", lambda _, message: sent.append(message))

    def rank() -> int:
        code = train.main()
        (tmp_path / "log").write_text(json.dumps(sent[-1]["outcome"]))
        return code

    said = told(tmp_path, wire(run), monkeypatch, rank)
    assert said.startswith(
        "InvalidWeights: spec.baseModel: model.layers.1.mlp.up_proj.weight (1 in all) holds NaN"
    )
    assert said.endswith("download or convert the model again")
