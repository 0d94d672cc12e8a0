"""The gate stage: what was compiled is run over held-out rows and compared with full precision.

Full precision was measured where it fits, by the export stage; here only the engine runs. The stage
measures and publishes; the budget is the operator's to apply, except for output that is no language at all.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from anneal_api.artifacts import Manifest
from anneal_api.base import wire
from anneal_api.modeldeployment import Gate
from anneal_api.outcome import GateResult, GateTask
from anneal_api.runs import DeploymentRun
from anneal_evaluation import records
from anneal_runtime import artifacts, stage
from anneal_runtime.errors import Refused
from anneal_serving import builders, divergence, inspect_stage, layers, stages, suites
from anneal_serving.divergence import Row, Tally
from anneal_serving.engine import ENGINE_FOLDER
from anneal_serving.int4 import Array
from anneal_serving.tensorrt_llm import Library

GATE = "gate.json"
REFERENCE = "reference.safetensors"
TOKENS = 16_384
"""Rows beyond this are left out: the standard error of a mean over thousands of tokens is below the budgets."""
CHUNKS = {"f16": 256, "u8": 16}
"""Tokens a step, by the precision of the KV cache: bounds the logits in memory (256 x 49,152 floats are 50 MB). What a step
adds to the cache it sees as it was, so a cache that loses something is read often."""
LEAST_AGREEMENT = 0.05
"""Share of positions where engine and full precision choose the same token, below which output is garbage.
Four-bit models agree on 70% or more; swapped nibbles or wrong rotary angles on next to none."""

Logits = Callable[[Row], Iterable[tuple[int, Array]]]
"""Runs a row through an engine: logits in chunks, with the position each begins at."""


def main() -> int:
    """Run the stage as a pod does."""
    return stage.run_stage(run, DeploymentRun)


def run(config: DeploymentRun) -> GateResult:
    """Measure this version's engine, publish gate.json and return the figures."""
    engine, manifest = artifacts.open_artifact(stages.uri_of(config, "engine"), stages.CACHE)
    quantized, weights = artifacts.open_artifact(stages.uri_of(config, "quantize"), stages.CACHE)
    check_words(manifest, weights)
    builders.check(manifest.metadata["builder"], config.spec, config.accelerator)
    builders.check_here(config.spec, config.accelerator)
    rows = divergence.spread(divergence.read_rows(quantized / REFERENCE), TOKENS)
    if not rows:
        raise Refused(
            "NoReference", f"{config.model.uri}: {REFERENCE} has no rows with learned tokens; keep test rows"
        )
    library = Library(engine / ENGINE_FOLDER, config.spec.engine)
    logits, settings = _runtime(config, engine, manifest, library)
    tallies = divergence.by_task((row.task, divergence.compare(row, logits(row))) for row in rows)
    figures = summary(tallies, weights.metadata["tasks"])
    if beyond(config.spec.gate, figures):
        figures["diagnosis"] = diagnosis(config, quantized, engine, manifest, library)
    check_language(figures, tallies)
    model = inspect_stage.resolve(config)
    answers = suites.engine_answers(config, engine, manifest, library)
    compared, results = suites.measure(config, model, engine, answers)
    figures["suites"] = [wire(suite) for suite in compared]
    with stages.publish(config, "gate", {"engine": manifest.digest}) as publication:
        (publication.folder / GATE).write_text(json.dumps(figures, indent=2))
        if results:
            records.write(publication.folder, results)
        publication.metadata.update(settings=settings, rows=len(rows))
    return GateResult(artifact=publication.published, **figures)


def summary(tallies: dict[int, Tally], names: list[str]) -> dict[str, Any]:
    """Return a GateResult's fields but the artifact, as they travel."""
    total = sum(tallies.values(), Tally())
    tasks = [
        GateTask(
            name=names[task],
            reference_perplexity=tally.reference_perplexity,
            engine_perplexity=tally.engine_perplexity,
            logit_kl=tally.kl / tally.tokens,
        )
        for task, tally in sorted(tallies.items())
    ]
    return {
        "logitKL": total.kl / total.tokens,
        "perplexityIncrease": max(tally.increase for tally in tallies.values()),
        "tokens": total.tokens,
        "tasks": [wire(task) for task in tasks],
    }


def check_words(engine: Manifest, quantized: Manifest) -> None:
    """Raise Refused where the engine would be served with another tokenizer or chat template than its model's.

    Logits of recorded token ids cannot show it: they never pass the tokenizer.
    """
    recorded = {file.path: file.sha256 for file in quantized.files}
    served = {file.path: file.sha256 for file in engine.files}
    for name, what in (("tokenizer.json", "tokenizer"), ("chat.json", "chat template and end tokens")):
        if served.get(name) != recorded[name]:
            raise Refused(
                "WrongWords",
                f"{name} of the engine is not its model's: the {what} would not be those that the rows of the gate were "
                "made with; delete the engine's artifact to build it again",
            )


def beyond(budget: Gate, figures: dict[str, Any]) -> bool:
    """Whether the figures exceed the budget; a NaN does."""
    within = figures["logitKL"] <= budget.max_logit_kl
    return not (within and figures["perplexityIncrease"] <= budget.max_perplexity_increase)


def diagnosis(
    config: DeploymentRun, quantized: Path, engine: Path, manifest: Manifest, library: Library
) -> str:
    """Return where the artifact, or else the engine, leaves full precision."""
    if config.spec.engine.runtime == "openvino":
        from anneal_serving import openvino_layers  # only in images that have OpenVINO

        return openvino_layers.examine(quantized, engine, manifest.metadata["properties"])
    from anneal_serving import blocks  # TensorRT-LLM's image has its torch

    return layers.examine(quantized, blocks.states, library.logits)


def check_language(figures: dict[str, Any], tallies: dict[int, Tally]) -> None:
    """Raise Refused for an engine whose output has nothing to do with the model's."""
    total = sum(tallies.values(), Tally())
    agreement = total.agreed / total.tokens
    if not math.isfinite(figures["logitKL"]) or agreement < LEAST_AGREEMENT:
        raise Refused(
            "GarbageOutput",
            f"the engine chooses full precision's token at {agreement:.1%} of {total.tokens} positions "
            f"(KL {figures['logitKL']:.2f} nats): it does not compute this model; "
            f"{figures.get('diagnosis') or 'no layer is named'}; delete its artifacts to build it again",
        )


def _runtime(
    config: DeploymentRun, folder: Path, manifest: Manifest, library: Library
) -> tuple[Logits, dict[str, Any]]:
    if config.spec.engine.runtime == "openvino":
        return openvino_logits(folder, manifest.metadata["properties"])
    return lambda row: [(0, library.logits(row.input_ids))], {"builder": manifest.metadata["builder"]}


def openvino_logits(folder: Path, properties: dict[str, str]) -> tuple[Logits, dict[str, Any]]:
    """Return the function that runs rows through the IR in `folder`, and the settings it runs with."""
    import openvino as ov

    from anneal_serving.openvino_ir import MODEL

    compiled = ov.Core().compile_model(folder / MODEL, "CPU", properties)
    request = compiled.create_infer_request()

    def logits(row: Row) -> Iterator[tuple[int, Array]]:
        request.reset_state()
        for start, ids in divergence.chunked(row, CHUNKS[properties["KV_CACHE_PRECISION"]]):
            yield start, _step(request, start, ids)

    return logits, {name: str(compiled.get_property(name)) for name in properties}


def _step(request: Any, start: int, ids: Array) -> Array:
    end = start + len(ids)
    inputs = {
        "input_ids": ids[None].astype(np.int64),
        "attention_mask": np.ones((1, end), np.int64),
        "position_ids": np.arange(start, end)[None],
        "beam_idx": np.zeros(1, np.int32),
    }
    found: Array = request.infer(inputs)["logits"][0]
    return found
