"""The suites stage: the merged model writes answers, the sandbox says what they are worth.

The model runs in this process, and what it writes in containers that have no key of the store (`anneal_evaluation.judges`).
A suite that is published is not run again, so a run that was cut off goes on with the next.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from anneal_api.artifacts import STAGE_KINDS
from anneal_api.outcome import SuitesResult
from anneal_api.runs import FineTuneRun
from anneal_evaluation import judges, records, scoring
from anneal_evaluation.in_process import GREEDY, InProcess, Prompt
from anneal_evaluation.results import SuiteResult
from anneal_evaluation.suites import files
from anneal_evaluation.suites.files import Suite
from anneal_runtime.artifacts import publishing
from anneal_runtime.chat import ChatEncoder
from anneal_runtime.stage import run_stage
from anneal_trainers import tuned
from anneal_trainers.base import model
from anneal_trainers.prepare import inspection, producer

BATCH = 16
"""Sequences that are written together."""


def main() -> int:
    """Run the stage of this pod."""
    return run_stage(score_suites, FineTuneRun)


def score_suites(run: FineTuneRun) -> SuitesResult:
    """Score the merged model on every suite of the spec, and publish the results."""
    results = [_result(run, files.read(suite)) for suite in run.spec.evaluation.suites]
    with publishing(
        run.spec.output.uri,
        run.namespace,
        STAGE_KINDS["suites"],
        inspection(run).keys.suites,
        producer=producer(run, "suites"),
        inputs=tuned.input_digests(run, "export"),
    ) as publication:
        records.write(publication.folder, results)
    return SuitesResult(artifact=publication.published, scores=records.shown(results))


def _result(run: FineTuneRun, suite: Suite) -> SuiteResult:
    """Return what the model scores on a suite, or has scored before; where the suite lies changes nothing."""
    store, key = run.spec.output.uri, inspection(run).keys.export
    known = records.found(store, run.namespace, key, suite.digest)
    if known is not None:
        return known.model_copy(update={"suite": suite.name})
    made = scoring.evaluate(suite, run.name, load(tuned.exported_folder(run)), GREEDY, judges.chosen())
    records.publish(store, run.namespace, key, made, producer(run, "suites"))
    return made


@cache
def load(folder: Path) -> InProcess:
    """Return the model that was exported to `folder`, to be asked in this process."""
    return held(folder, ChatEncoder.load(folder))


def held(folder: Path, encoder: ChatEncoder) -> InProcess:
    """Return the model in `folder`, in the type a run computes in."""
    device = model.pick_device(0)
    network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=model.compute_type(device))
    network.to(device).eval()
    ends = sorted({*encoder.eos_ids, encoder.end_of_text})
    longest = int(network.config.max_position_embeddings)
    return InProcess(encoder, lambda prompts: continued(network, ends, prompts), longest)


def continued(network: Any, ends: list[int], prompts: Sequence[Prompt]) -> list[list[int]]:
    """Return what the model writes after each prompt; prompts of like length are run together."""
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number].ids))
    answers: dict[int, list[int]] = {}
    for batch in _batches(order):
        written = _batch(network, ends, [prompts[number] for number in batch])
        answers.update(zip(batch, written, strict=True))
    return [answers[number] for number in range(len(prompts))]


def _batches(order: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(order), BATCH):
        yield order[start : start + BATCH]


@torch.inference_mode()
def _batch(network: Any, ends: list[int], prompts: Sequence[Prompt]) -> list[list[int]]:
    width = max(len(prompt.ids) for prompt in prompts)
    ids = torch.zeros((len(prompts), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):  # padded on the left: an answer follows its prompt at once
        ids[row, width - len(prompt.ids) :] = torch.tensor(prompt.ids)
        mask[row, width - len(prompt.ids) :] = 1
    written = network.generate(
        ids.to(network.device),
        attention_mask=mask.to(network.device),
        do_sample=False,
        max_new_tokens=max(prompt.max_tokens for prompt in prompts),
        eos_token_id=ends,
        pad_token_id=ends[0],
    )[:, width:].tolist()
    return [row[: prompt.max_tokens] for row, prompt in zip(written, prompts, strict=True)]
