"""The memory plan of a run, from its spec, its model's sizes and its accelerator: for the operator and for people."""

from anneal_api import memory, timing
from anneal_api.finetunejob import FineTuneJobSpec
from anneal_api.memory import ModelShape, Plan, ServingPlan
from anneal_api.modeldeployment import ModelDeploymentSpec
from anneal_api.profiles import AcceleratorProfile


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
