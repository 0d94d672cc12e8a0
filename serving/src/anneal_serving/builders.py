"""What engines are tied to, as a string: part of an engine's key, known without importing any runtime."""

from importlib import metadata

from anneal_api.modeldeployment import ModelDeploymentSpec
from anneal_api.profiles import AcceleratorProfile
from anneal_runtime.errors import Refused

TENSORRT_LLM = "1.2.1"
"""The last stable release with trtllm-build; builder and server images carry the same one."""
TENSORRT_LLM_GROUPS = (64, 128)
"""Group sizes of its W4A16 kernels."""


def builder(spec: ModelDeploymentSpec, accelerator: AcceleratorProfile) -> str:
    """Return the builder of this deployment's engine.

    Raises:
        Refused: the profile or the group size does not go with the runtime.
    """
    if spec.engine.runtime == "openvino":
        if spec.engine.tensor_parallel_size > 1:
            raise Refused(
                "NotDivided",
                f"spec.engine.tensorParallelSize: {spec.engine.tensor_parallel_size}, and openvino runs a replica on one "
                "CPU; use 1",
            )
        return f"openvino-{metadata.version('openvino')}"
    if spec.engine.kv_cache_type == "int8":
        raise Refused(
            "UnsupportedCache",
            f"spec.engine.kvCacheType: int8 is built for openvino; of {spec.engine.runtime} the gate could not tell what "
            "it costs, because a prompt that is read at once never reads the cache; use fp16",
        )
    torch_backend = spec.engine.runtime == "tensorrt-llm-pytorch"
    if accelerator.compute_capability is None and not torch_backend:
        raise Refused(
            "NoComputeCapability",
            f"spec.accelerator: profile {accelerator.name} has no computeCapability, which a TensorRT engine is "
            "tied to; ask the administrator to add it, or set spec.engine.runtime to openvino",
        )
    if spec.quantization.group not in (None, *TENSORRT_LLM_GROUPS):
        raise Refused(
            "UnsupportedGroupSize",
            f"spec.quantization.groupSize: {spec.quantization.group_size} has no kernel in TensorRT-LLM; use 64 or 128",
        )
    tied = "pytorch" if torch_backend else f"sm{accelerator.compute_capability}"
    return f"tensorrt-llm-{TENSORRT_LLM}-{tied}"


def check(built: str, spec: ModelDeploymentSpec, accelerator: AcceleratorProfile) -> None:
    """Raise Refused for an engine that was `built` for another compute capability or by another version than is here."""
    here = builder(spec, accelerator)
    if built != here:
        raise Refused(
            "WrongEngine",
            f"the engine was built by {built} and would be loaded by {here}; an engine runs only with the version and on "
            "the compute capability it was built for: delete its artifact to build it again",
        )
