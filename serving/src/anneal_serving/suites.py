"""Suites in the gate: the engine that will serve answers what full precision answered, problem by problem.

Full precision was asked where it fits, by the suites stage of the model's FineTuneJob; its samples lie beside the model.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from anneal_api.artifacts import Manifest
from anneal_api.outcome import GateSuite
from anneal_api.runs import DeploymentRun
from anneal_evaluation import comparison, judges, records, scoring
from anneal_evaluation.in_process import Continue, InProcess, Prompt
from anneal_evaluation.results import SuiteResult, first_score
from anneal_evaluation.suites import files
from anneal_evaluation.suites.files import Suite
from anneal_evaluation.suites.problems import judged
from anneal_runtime.chat import ChatEncoder
from anneal_runtime.errors import Refused
from anneal_serving.tensorrt_llm import Library


def with_references(config: DeploymentRun, model: Manifest) -> list[tuple[Suite, SuiteResult]]:
    """Return the suites of the gate, each with what the full-precision model scored on it.

    Raises:
        Refused: a suite cannot be read or run here, or full precision was never scored on it.
    """
    return list(_with_references(config, model))


def _with_references(config: DeploymentRun, model: Manifest) -> Iterator[tuple[Suite, SuiteResult]]:
    parts = config.model.uri.rstrip("/").rsplit("/", 3)
    for budget in config.spec.gate.suites:
        suite = files.read(budget.name)
        judges.chosen().check(judged(suite.problems))
        known = records.found(parts[0], parts[1], model.key, suite.digest) if len(parts) == 4 else None
        if known is None:
            raise Refused(
                "NoReferenceScore",
                f"spec.gate.suites: {config.model.uri} was never scored on {budget.name}; add it to the model's "
                "FineTuneJob as spec.evaluation.suites, or remove it here",
            )
        yield suite, known


def measure(
    config: DeploymentRun, model: Manifest, engine: Path, run: Continue
) -> tuple[list[GateSuite], list[SuiteResult]]:
    """Return how the engine in a folder does on the suites of the gate, and its results with every sample."""
    pairs = with_references(config, model)
    if not pairs:
        return [], []
    held = InProcess(ChatEncoder.load(engine), run, config.spec.engine.max_sequence_length)
    results = [
        scoring.evaluate(suite, f"{config.name} engine", held, known.settings, judges.chosen())
        for suite, known in pairs
    ]
    return [_compared(known, made) for (_, known), made in zip(pairs, results, strict=True)], results


def _compared(reference: SuiteResult, engine: SuiteResult) -> GateSuite:
    before, after = first_score(reference), first_score(engine)
    return GateSuite(
        name=engine.suite,
        reference=before.value,
        engine=after.value,
        decision=comparison.compare(reference, engine).decision,
        problems=after.problems,
        reference_low=before.low,
        reference_high=before.high,
        engine_low=after.low,
        engine_high=after.high,
    )


def engine_answers(config: DeploymentRun, folder: Path, manifest: Manifest, library: Library) -> Continue:
    """Return the function that continues prompts on the engine of an artifact, opened when it is first asked."""
    ends = [int(token) for token in manifest.metadata["eosIds"]]
    if config.spec.engine.runtime == "openvino":
        return lambda prompts: _openvino(config, folder, manifest.metadata["properties"], ends, prompts)
    return lambda prompts: library.continued(ends, [(prompt.ids, prompt.max_tokens) for prompt in prompts])


def _openvino(
    config: DeploymentRun,
    folder: Path,
    properties: dict[str, str],
    ends: list[int],
    prompts: Sequence[Prompt],
) -> list[list[int]]:
    from anneal_serving.triton import offline, scheduler  # only in images that have OpenVINO

    limits = scheduler.Limits(config.spec.engine.max_batch_size, config.spec.engine.max_sequence_length)
    wanted = [(prompt.ids, prompt.max_tokens) for prompt in prompts]
    return offline.continued(folder, limits, properties, frozenset(ends), wanted)
