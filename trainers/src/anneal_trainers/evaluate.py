"""Held-out loss of every task before and after, on the rows of the test split that training never saw.

Before is what training started from; the loss is the objective's own, a mean over learned tokens or over pairs.
"""

import json
import math
from collections.abc import Sequence

import numpy as np

from anneal_api.artifacts import STAGE_KINDS
from anneal_api.base import wire
from anneal_api.outcome import EvaluateResult, Score
from anneal_api.runs import FineTuneRun
from anneal_runtime.artifacts import publishing
from anneal_runtime.stage import run_stage
from anneal_trainers import tuned
from anneal_trainers.base import adapters, model
from anneal_trainers.data import dataset
from anneal_trainers.pod.channel import Channel
from anneal_trainers.pod.group import Group
from anneal_trainers.prepare import inspection, producer
from anneal_trainers.training import objective
from anneal_trainers.training.loop import NonFiniteLoss
from anneal_trainers.training.meter import Meter


def main() -> int:
    """Run the stage of this pod."""
    return run_stage(evaluate, FineTuneRun)


def evaluate(run: FineTuneRun) -> EvaluateResult:
    """Score base and tuned model on the test split, and publish the scores.

    Raises:
        NonFiniteLoss: a loss is no number.
    """
    facts, device = inspection(run), model.pick_device(0)
    folder = tuned.dataset_folder(run)
    split, names = dataset.open_split(folder, "test"), dataset.task_names(folder)
    trainee = tuned.load_start(run, device)
    goal = objective.make(run.spec.optimization, trainee)
    meter = Meter(goal, trainee, run.spec.data, len(names), Group(), Channel(None))
    before = meter.total(split, np.arange(len(split)), np.zeros(len(split))).means()
    adapters.put(trainee.model, tuned.adapter_folder(run))
    after = meter.total(split, np.arange(len(split)), np.zeros(len(split))).means()
    rows = np.bincount(split.unit_tasks, minlength=len(names)).tolist()
    scores = [
        Score(name=name, base_loss=before[k], tuned_loss=after[k], rows=rows[k])
        for k, name in enumerate(names)
        if rows[k]
    ]
    check(scores)
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


def check(scores: Sequence[Score]) -> None:
    """Raise NonFiniteLoss where a score is no number: JSON has none for it, and nobody could use it."""
    wrong = [
        f"{score.name}: {score.base_loss} before, {score.tuned_loss} after"
        for score in scores
        if not (math.isfinite(score.base_loss) and math.isfinite(score.tuned_loss))
    ]
    if wrong:
        raise NonFiniteLoss(
            f"test losses are no finite numbers ({'; '.join(wrong)}); where the base's is not, look at its weights "
            "and at the test rows, else lower spec.optimization.learningRate"
        )
