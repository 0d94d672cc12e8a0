"""Held-out loss of every task before and after, on the rows of the test split that training never saw."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from anneal_api.artifacts import STAGE_KINDS
from anneal_api.base import wire
from anneal_api.outcome import EvaluateResult, Score
from anneal_api.runs import FineTuneRun
from anneal_runtime.artifacts import publishing
from anneal_runtime.stage import run_stage
from anneal_trainers import adapters, added_tokens, dataset, model, tuned
from anneal_trainers.batches import batches
from anneal_trainers.losses import weighted_cross_entropy
from anneal_trainers.prepare import inspection, producer


def main() -> int:
    """Run the stage of this pod."""
    return run_stage(evaluate, FineTuneRun)


def evaluate(run: FineTuneRun) -> EvaluateResult:
    """Score base and tuned model on the test split, and publish the scores."""
    facts, device = inspection(run), model.pick_device(0)
    folder = tuned.dataset_folder(run)
    split, names = dataset.open_split(folder, "test"), dataset.task_names(folder)
    peft_model = tuned.load_untuned(run, device, model.compute_type(device))
    before = task_losses(peft_model, split, len(names), run.spec.data.max_length)
    adapters.put(peft_model, tuned.adapter_folder(run))
    after = task_losses(peft_model, split, len(names), run.spec.data.max_length)
    rows = np.bincount(split.tasks, minlength=len(names)).tolist()
    scores = [
        Score(name=name, base_loss=float(before[k]), tuned_loss=float(after[k]), rows=rows[k])
        for k, name in enumerate(names)
        if rows[k]
    ]
    inputs = tuned.input_digests(run, "prepare", "train")
    with publishing(
        run.spec.output.uri,
        run.namespace,
        STAGE_KINDS["evaluate"],
        facts.keys.evaluate,
        producer=producer(run, "evaluate"),
        inputs=inputs,
    ) as publication:
        publication.metadata = {"split": "test", "scores": [wire(score) for score in scores]}
        (publication.folder / "scores.json").write_text(json.dumps(publication.metadata, indent=1) + "\n")
    return EvaluateResult(artifact=publication.published, scores=scores)


def task_losses(peft_model: Any, split: dataset.Split, tasks: int, capacity: int) -> npt.NDArray[np.float64]:
    """Return the mean nll of a learned token of each task, [tasks]; nan for a task without rows."""
    sums, counts = np.zeros(tasks), np.zeros(tasks)
    device = next(peft_model.parameters()).device
    base = peft_model.get_base_model()
    added_tokens.write_into_embeddings(base)
    head = base.get_output_embeddings().weight
    with torch.no_grad():
        for batch in batches(split, np.arange(len(split)), capacity, packed=True):
            here = batch.to(device)
            states = model.hidden_states(peft_model, here)[here.before]
            ones = torch.ones(len(here.targets), device=device)
            nll = weighted_cross_entropy(states, head, here.targets, ones)[1].double().cpu().numpy()
            np.add.at(sums, split.tasks[batch.rows], nll)
            np.add.at(counts, split.tasks[batch.rows], 1)
    return np.divide(sums, counts, out=np.full(tasks, np.nan), where=counts > 0)
