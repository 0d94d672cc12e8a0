"""What engines are tied to, as a string: part of an engine's key, known without importing any runtime."""

import ctypes
import re
from importlib import metadata

from anneal_api.modeldeployment import ModelDeploymentSpec
from anneal_api.profiles import AcceleratorProfile
from anneal_runtime.errors import Refused

TENSORRT_LLM = "1.2.1"
"""The last stable release with trtllm-build; builder and server images carry the same one."""
TENSORRT_LLM_GROUPS = (64, 128)
"""Group sizes of its W4A16 kernels."""
CAPABILITY = (75, 76)
"""The driver's attributes of a device that make up its compute capability; asking for them makes no context."""


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


def check_here(spec: ModelDeploymentSpec, accelerator: AcceleratorProfile) -> None:
    """Raise Refused where this pod is not what a TensorRT-LLM engine's key says of it.

    The key is made of what this release and the profile name; an image of one's own, or a node of another kind in the profile's
    pool, would build or load something else under it. OpenVINO's version is always the installed one.
    """
    if spec.engine.runtime == "openvino":
        return
    installed = _installed()
    # A build's own suffix (1.2.1+cu131, 1.2.1.post1) is the same release.
    if not re.match(rf"{re.escape(TENSORRT_LLM)}(\D|$)", installed):
        raise Refused(
            "WrongVersion",
            f"this image has {installed or 'no'} TensorRT-LLM, and engines are built and loaded by {TENSORRT_LLM}; set the "
            "operator's images.tritonTrtllm to an image of this release",
        )
    found = compute_capability()
    if spec.engine.runtime == "tensorrt-llm-engine" and found != accelerator.compute_capability:
        raise Refused(
            "WrongAccelerator",
            f"spec.accelerator: profile {accelerator.name} says compute capability {accelerator.compute_capability}, this pod's "
            f"accelerator has {found or 'no CUDA driver'}; correct the profile or its node selector",
        )


def _installed() -> str:
    try:
        return metadata.version("tensorrt_llm")
    except metadata.PackageNotFoundError:
        return ""


def compute_capability() -> str | None:
    """Return that of this pod's first accelerator; None where no driver knows one (source: the CUDA driver API)."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, parts = ctypes.c_int(), (ctypes.c_int(), ctypes.c_int())
    failed = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0)
    for part, attribute in zip(parts, CAPABILITY, strict=True):
        failed = failed or driver.cuDeviceGetAttribute(ctypes.byref(part), attribute, device)
    return None if failed else ".".join(str(part.value) for part in parts)
