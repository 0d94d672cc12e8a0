"""The first stage: says in seconds, on a small pod, whether a run can work and what of it exists already.

No torch and no transformers here: importing them takes longer than everything this stage does.
"""

import contextlib
import itertools
import json
import os
from pathlib import Path

from anneal_api.artifacts import STAGE_KINDS, finetune_keys
from anneal_api.base import ArtifactRef
from anneal_api.finetunejob import FineTuneJobSpec, Task
from anneal_api.outcome import FineTuneInspection, FineTuneKeys, Score, TaskFacts
from anneal_api.runs import FineTuneRun
from anneal_evaluation import in_process, judges, records
from anneal_evaluation.suites import files
from anneal_evaluation.suites.problems import judged
from anneal_runtime import model_shape, storage
from anneal_runtime.artifacts import identity, reference, uri_of
from anneal_runtime.chat import ChatEncoder
from anneal_runtime.errors import Refused
from anneal_runtime.stage import run_stage
from anneal_runtime.storage import join, resolve
from anneal_trainers import consistency
from anneal_trainers.base import base_model, init_from
from anneal_trainers.data import fim, sentinels, shards, sources, suites
from anneal_trainers.data.formats import Row
from anneal_trainers.pod import telemetry

SAMPLE_ROWS = 200
"""Rows of a task whose shape and chat are checked here; prepare checks all of them."""


def main() -> int:
    """Run the stage of this pod."""
    return run_stage(inspect, FineTuneRun)


def cache_folder() -> Path:
    """Return where copies of remote inputs go: the pod's /work, or $ANNEAL_CACHE_FOLDER."""
    return Path(os.environ.get("ANNEAL_CACHE_FOLDER", "/work"))


def inspect(run: FineTuneRun) -> FineTuneInspection:
    """Return digests, sizes, keys, and what is published."""
    spec = run.spec
    consistency.check(spec)
    telemetry.check(spec)
    storage.check_access(named(spec))
    base = sources.base_uri(spec.base_model)
    shape = model_shape.shape_of(base_model.read_config(base))
    base_model.check_fits(spec, shape)
    encoder = ChatEncoder.from_pretrained_folder(
        base_model.tokenizer_folder(spec, cache_folder()), spec.chat_template
    )
    encoder, added = sentinels.widened(spec.tasks, encoder)
    tasks = [task_facts(task, spec, encoder) for task in spec.tasks]
    digest = identity(base, sampled=True)
    initial = init_from.check(spec, digest, shape, added)
    suite_digests = suites.digests(spec.data.decontaminate)
    suites.problems(spec.data.decontaminate)
    scored = [check_suite(suite, encoder) for suite in spec.evaluation.suites]
    keys = finetune_keys(
        spec,
        digest,
        {task.name: task.digest for task in tasks},
        initial,
        suite_digests,
        [suite.digest for suite in scored],
    )
    found = _published(run, keys)
    return FineTuneInspection(
        base_digest=digest,
        initial_digest=initial,
        shape=shape,
        tasks=tasks,
        shards=shards.count([file for _, file in shards.listing(spec)]),
        keys=keys,
        published=found,
        scores=read_scores(found["evaluate"]) if "evaluate" in found else [],
        suite_scores=records.scores(found["suites"]) if "suites" in found else [],
        judged=judged(problem for suite in scored for problem in suite.problems),
    )


def named(spec: FineTuneJobSpec) -> dict[str, str]:
    """Return the URIs that a job reads from and writes to, by the field that names them."""
    rows = {f"spec.tasks[{number}].data.uri": task.data.uri for number, task in enumerate(spec.tasks)}
    return {
        "spec.baseModel.uri": sources.base_uri(spec.base_model),
        **rows,
        "spec.output.uri": spec.output.uri,
    }


def check_suite(suite: str, encoder: ChatEncoder) -> files.Suite:
    """Return a suite, once all of it can be read, judged in this cluster, and asked of the model."""
    found = files.read(suite)
    if any(problem.task == "infill" for problem in found.problems):
        in_process.infill_marks(encoder)
    judges.chosen().check(judged(found.problems))
    return found


def task_facts(task: Task, spec: FineTuneJobSpec, encoder: ChatEncoder) -> TaskFacts:
    """Return the digest of the task's data and how many rows it has; the first rows are checked whole."""
    fim.filler(task, encoder)
    places = checked = 0
    with contextlib.closing(sources.found(task, spec.data)) as all_places:
        for place in itertools.islice(all_places, SAMPLE_ROWS):
            places += 1
            if place.row:
                checked += 1
                check_use(task, place.row, spec.optimization.objective)
                for chat in filter(None, (place.row.chat, place.row.rejected_chat)):
                    encoder.encode(chat)
    if not checked:
        raise Refused(
            "InvalidRows",
            f"task {task.name}: {task.data.uri} holds no rows; check spec.tasks[].data.uri or remove the task",
        )
    count = sources.count(task) if places == SAMPLE_ROWS else places
    return TaskFacts(name=task.name, digest=identity(task.data.uri), rows=count)


def check_use(task: Task, row: Row, objective: str) -> None:
    """Raise Refused where a row is of a kind that the run has no use for."""
    if row.rejected and objective != "dpo":
        raise Refused(
            "PreferenceRows",
            f"spec.tasks[].data.format: the rows of {task.name} are preferences (chosen and rejected), which "
            f"spec.optimization.objective {objective} cannot use; choose objective dpo or other rows",
        )
    if not row.rejected and objective == "dpo":
        raise Refused(
            "NoPreferenceRows",
            f"spec.tasks[].data.format: the rows of {task.name} have no chosen and rejected answer, which "
            "spec.optimization.objective dpo compares; choose objective supervised or rows of preferences",
        )
    if row.messages and task.fim.rate:
        raise Refused(
            "FimOnChats",
            f"spec.tasks[].fim: rate {task.fim.rate:g} in {task.name}, whose rows are chats; fill in the middle is "
            "for rows of plain text: remove fim or give the task such rows",
        )


def read_scores(artifact: ArtifactRef) -> list[Score]:
    """Return the scores of a published evaluation."""
    filesystem, path = resolve(join(artifact.uri, "scores.json"))
    return [Score.model_validate(score) for score in json.loads(filesystem.cat_file(path))["scores"]]


def _published(run: FineTuneRun, keys: FineTuneKeys) -> dict[str, ArtifactRef]:
    found = {
        stage: reference(uri_of(run.spec.output.uri, run.namespace, STAGE_KINDS[stage], getattr(keys, stage)))
        for stage in FineTuneKeys.model_fields
    }
    return {stage: ref for stage, ref in found.items() if ref is not None}
