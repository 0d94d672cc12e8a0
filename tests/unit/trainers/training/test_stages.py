"""Whole stages on the tiny model: real processes for training, real files for everything between."""

import itertools
import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from thread_ranks import stop_in
from training_pods import start_pods

from anneal_api.base import ArtifactRef
from anneal_api.runs import FineTuneRun, runs_folder
from anneal_runtime.artifacts import open_artifact
from anneal_runtime.chat import ChatEncoder
from anneal_runtime.errors import TryAgain
from anneal_trainers import cleanup, prepare, tuned
from anneal_trainers.base import model
from anneal_trainers.base.weights import load_base
from anneal_trainers.data import dataset
from anneal_trainers.data.batches import pack
from anneal_trainers.evaluate import evaluate
from anneal_trainers.export import export
from anneal_trainers.inspect_stage import inspect
from anneal_trainers.pod.channel import Channel
from anneal_trainers.pod.group import Group
from anneal_trainers.records.store import Store
from anneal_trainers.training import loop
from anneal_trainers.training.run import Run, StopFlag
from anneal_trainers.tuned import dataset_folder

CPU = torch.device("cpu")


@pytest.mark.slow
def test_a_run_of_two_pods_from_rows_to_a_merged_model(make_run: Any, tmp_path: Path) -> None:
    optimization = {"learningRate": 0.01, "maxSteps": 12, "globalBatchTokens": 512}
    run = make_run(workers={"nodes": 2}, optimization=optimization)
    prepare.prepare(run)
    (code, outcome), (other, _) = (pod.finish() for pod in start_pods(run, tmp_path))
    assert (code, other) == (0, 0)
    assert (outcome.verdict, outcome.result["step"]) == ("Succeeded", 12)
    adapter, manifest = open_artifact(outcome.result["artifact"]["uri"], tmp_path)
    assert manifest.metadata["validationLoss"] == min(manifest.metadata["validationLosses"])
    assert json.loads((adapter / "adapter_config.json").read_text())["r"] == 4
    assert manifest.inputs == tuned.input_digests(run, "prepare")
    scores = evaluate(run).scores
    assert {score.name for score in scores} == {"sums", "words"}
    assert all(score.tuned_loss < score.base_loss - 0.2 for score in scores)
    check_export(run, tmp_path)
    seen = inspect(run)
    assert set(seen.published) == {"prepare", "train", "evaluate", "export"}
    assert seen.scores == scores
    assert cleanup.delete(run.model_copy(update={"uid": "other"})).artifacts == 0
    assert cleanup.delete(run).artifacts == 4
    assert inspect(run).published == {}


def check_export(run: FineTuneRun, tmp_path: Path) -> None:
    folder, manifest = open_artifact(export(run).artifact.uri, tmp_path)
    assert manifest.metadata["parity"]["maxLogitDifference"] <= 1e-4
    assert manifest.metadata["lineage"]["base"]["digest"] == run.inspection.base_digest  # type: ignore[union-attr]
    digests = {kind: open_artifact(seen.uri, tmp_path)[1].digest for kind, seen in published(run).items()}
    assert manifest.inputs == {"base": run.inspection.base_digest, **digests}  # type: ignore[union-attr]
    assert {n: manifest.metadata["lineage"][n] for n in digests} == digests
    assert (folder / "README.md").read_text().startswith("# job")
    assert ChatEncoder.load(folder).eos_ids == ChatEncoder.from_pretrained_folder(folder).eos_ids == [2]
    merged = load_base(folder, quantized=False, device=CPU, dtype=torch.float32).eval()
    assert load_file(folder / "model.safetensors")["model.embed_tokens.weight"].dtype == torch.bfloat16
    reference = load_file(folder / "reference.safetensors")
    begin, end = reference["offsets"][:2].tolist()
    ids = reference["input_ids"][begin:end].long()
    with torch.no_grad():
        logprobs = merged(input_ids=ids[None]).logits[0].log_softmax(-1)
    expected = -logprobs[:-1].gather(-1, ids[1:, None]).squeeze(-1)
    assert torch.allclose(reference["nll"][begin : end - 1], expected, atol=1e-4)
    assert reference["top_ids"].shape == (len(reference["input_ids"]), 32)
    mass = reference["top_logprobs"].exp().sum(-1) + reference["tail_logprob"].exp()
    assert torch.allclose(mass, torch.ones_like(mass), atol=1e-5)
    held = split_rows(reference)
    assert held
    assert not held & split_rows(load_file(folder / "calibration.safetensors"))


def published(run: FineTuneRun) -> dict[str, ArtifactRef]:
    found = inspect(run).published
    return {"dataset": found["prepare"], "adapter": found["train"]}


def split_rows(tensors: dict[str, torch.Tensor]) -> set[tuple[int, ...]]:
    bounds, ids = tensors["offsets"].tolist(), tensors["input_ids"].tolist()
    return {tuple(ids[a:b]) for a, b in itertools.pairwise(bounds)}


@pytest.mark.slow
def test_sigterm_saves_and_the_next_attempt_goes_on_from_there(make_run: Any, tmp_path: Path) -> None:
    run = make_run(optimization={"maxSteps": 3000, "globalBatchRows": 2}, checkpoint={"everySteps": 3000})
    prepare.prepare(run)
    (pod,) = start_pods(run, tmp_path)
    while pod.process.poll() is None and not pod.has_stepped:
        time.sleep(0.1)
    pod.process.send_signal(signal.SIGTERM)
    code, outcome = pod.finish()
    assert (code, outcome.verdict, outcome.reason) == (75, "Retry", "Preempted"), outcome
    found = Store(runs_folder(run), 2, run.inspection.keys.train, 2).newest()
    assert found is not None
    assert f"after step {found[0].step}," in outcome.message


def assemble(run: FineTuneRun, attempt: int, stop: StopFlag) -> Run:
    folder = dataset_folder(run)
    facts = prepare.inspection(run)
    return Run(
        spec=run.spec,
        tasks=dataset.task_names(folder),
        train=dataset.open_split(folder, "train"),
        validation=dataset.open_split(folder, "validation"),
        trainee=model.build(
            Path(run.spec.base_model.uri[7:]), run.spec.adapter, run.spec.optimization.seed, CPU
        ),
        group=Group(),
        store=Store(runs_folder(run), attempt, facts.keys.train, 2),
        channel=Channel(None),
        stop=stop,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qlora", "lora"])
def test_a_stopped_and_resumed_run_is_bit_for_bit_an_uninterrupted_one(make_run: Any, kind: str) -> None:
    fields = {
        "adapter": {"type": kind, "rank": 4, "alpha": 8, "dropout": 0.2},
        "optimization": {"learningRate": 0.01, "maxSteps": 6, "globalBatchRows": 5, "warmupSteps": 2},
        "evaluation": {"everySteps": 2},
    }
    run = make_run(**fields)
    prepare.prepare(run)
    whole = assemble(run, 1, StopFlag())
    expected = loop.train(whole)
    parted = make_run(uid="another-run", **fields)
    for attempt in (1, 3):  # named by the step that is its last
        first = assemble(parted, attempt, StopFlag())
        stop_in(first, attempt)
        with pytest.raises(TryAgain, match=f"after step {attempt},"):
            loop.train(first)
    last = assemble(parted, 4, StopFlag())
    state = loop.train(last)
    assert (state.losses, state.train_loss, state.step) == (expected.losses, expected.train_loss, 6)
    assert state.best_step == expected.best_step
    assert torch.equal(last.trainee.flat, whole.trainee.flat)


@pytest.mark.parametrize("packing", ["bestFit", "none"])
def test_packing_does_not_change_what_is_learned(make_run: Any, packing: str) -> None:
    split = {"train": 60, "validation": 20, "test": 20}
    run = make_run(data={"maxLength": 128, "split": split, "packing": packing})
    prepare.prepare(run)
    assembled = assemble(run, 1, StopFlag())
    rows, weights = np.arange(12), np.asarray([2, 1.0])
    sums = loop.accumulate(assembled, rows, weights, 0)
    by_row = torch.from_numpy(assembled.goal.weights(assembled.train, rows, "taskMean", weights)).float()
    single = [
        assembled.goal.measure(assembled.trainee, pack(assembled.train, [row]), by_row[row : row + 1])
        for row in rows
    ]
    assert sums.loss == pytest.approx(sum(float(part.loss.detach()) for part in single), rel=1e-5)
