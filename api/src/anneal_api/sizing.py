"""The memory plan of a run, from its spec, its model's sizes and its accelerator: for the operator and for people."""

from anneal_api import memory, timing
from anneal_api.finetunejob import FineTuneJobSpec
from anneal_api.memory import ModelShape, Plan, ServingPlan
from anneal_api.modeldeployment import ModelDeploymentSpec
from anneal_api.profiles import AcceleratorProfile

DEFAULT_BATCH_ROWS = 32
"""Rows of a step where a spec says neither rows nor tokens."""


def training(spec: FineTuneJobSpec, shape: ModelShape, accelerator: AcceleratorProfile) -> Plan:
    """Return what one rank of a FineTuneJob needs of its accelerator."""
    workers, preference = spec.workers, spec.optimization.objective == "dpo"
    return memory.training_plan(
        shape,
        memory.ACCELERATOR if accelerator.resource_name else memory.CPU,
        quantized=spec.adapter.type == "qlora",
        rank=spec.adapter.rank,
        targets=spec.adapter.targets,
        # Both answers of a pair are in one micro-batch.
        tokens=spec.data.max_length * (2 if preference else 1),
        memory_gib=accelerator.memory_gib,
        sharded_by=workers.nodes * workers.accelerators_per_node if workers.strategy == "fsdp" else 1,
        references=int(preference),
    )


def training_tokens(spec: FineTuneJobSpec, epoch_tokens: float | None) -> float | None:
    """Return the positions that a run trains on at most; None where it depends on rows, and `epoch_tokens` is not told."""
    recipe = spec.optimization
    if recipe.max_steps and not spec.stages:
        rows = recipe.global_batch_rows or DEFAULT_BATCH_ROWS
        return recipe.max_steps * (recipe.global_batch_tokens or rows * spec.data.max_length)
    passes = sum(stage.epochs for stage in spec.stages) or recipe.epochs or 1.0
    return None if epoch_tokens is None else passes * epoch_tokens


def training_time(
    spec: FineTuneJobSpec, shape: ModelShape, accelerator: AcceleratorProfile, epoch_tokens: float | None
) -> str:
    """Return about how long the steps of a FineTuneJob take, in words."""
    tokens, workers = training_tokens(spec, epoch_tokens), spec.workers
    if tokens is None:
        return "how long it takes depends on the rows: say with --tokens how many tokens they have"
    ranks, real = workers.nodes * workers.accelerators_per_node, bool(accelerator.resource_name)
    references = int(spec.optimization.objective == "dpo")
    work = timing.training_operations(shape, tokens, recompute=real, references=references)
    taken = timing.shown(timing.training_seconds(work, ranks, accelerator))
    where = f"{ranks} x {accelerator.name}" if real else f"{ranks} pods of two cores"
    return f"{tokens:.3g} tokens take about {taken} on {where}, at rates that were not measured there"


def serving(spec: ModelDeploymentSpec, shape: ModelShape, accelerator: AcceleratorProfile) -> ServingPlan:
    """Return what one accelerator of a ModelDeployment's replica needs."""
    return memory.serving_plan(
        shape,
        group=spec.quantization.group,
        sequence=spec.engine.max_sequence_length,
        batch=spec.engine.max_batch_size,
        memory_gib=accelerator.memory_gib,
        ranks=spec.engine.tensor_parallel_size,
        cpu=spec.engine.runtime == "openvino",
        int8_cache=spec.engine.kv_cache_type == "int8",
    )


def quantizing(spec: ModelDeploymentSpec, shape: ModelShape, accelerator: AcceleratorProfile | None) -> str:
    """Return about how long AWQ takes on spec.quantization.accelerator, or on a CPU; empty for other methods."""
    recipe = spec.quantization
    if recipe.method != "awq":
        return ""
    taken = timing.shown(timing.awq_seconds(shape, recipe.group_size, accelerator))
    if accelerator is None:
        return f"AWQ takes about {taken} on two CPU cores; spec.quantization.accelerator is for more"
    return f"AWQ takes about {taken} on {accelerator.name}"
