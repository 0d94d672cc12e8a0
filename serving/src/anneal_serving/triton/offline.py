"""The engine as Triton opens it, for sequences that are all known: what the gate scores is what replicas serve."""

from collections.abc import Sequence
from pathlib import Path

from anneal_serving.triton import grammar, scheduler
from anneal_serving.triton.generation import Generation, run_all
from anneal_serving.triton.scheduler import Batcher, Limits


def continued(
    folder: Path,
    limits: Limits,
    properties: dict[str, str],
    stop_ids: frozenset[int],
    prompts: Sequence[tuple[Sequence[int], int]],
) -> list[list[int]]:
    """Return what the engine in `folder` goes on with, greedily, after prompts of ids and a number of tokens."""
    vocabulary = scheduler.vocabulary_of(folder)
    tokenizer = grammar.tokenizer_of(folder / "tokenizer.json", min(stop_ids), vocabulary)
    pipeline = scheduler.open_pipeline(folder, limits, properties, tokenizer)
    batcher = Batcher(pipeline, limits.slots, lambda load: None)
    wanted = [Generation(list(ids), tokens, stop_ids, top_k=1) for ids, tokens in prompts]
    try:
        return run_all(batcher, wanted)
    finally:
        batcher.close()
