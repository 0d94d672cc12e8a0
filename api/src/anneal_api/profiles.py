"""The administrator's side: accelerator and store profiles, from the Helm chart's values."""

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from anneal_api.base import Model, Name

EnvOtel = Annotated[str, StringConstraints(pattern=r"^OTEL_[A-Z0-9_]+$", max_length=128)]


class PodOverlay(Model):
    """The bounded part of a pod an administrator may shape; everything else is the operator's."""

    requests: dict[str, str] = Field({}, description="CPU and memory requests of the main container.")
    limits: dict[str, str] = Field({}, description="Extra limits, such as RDMA resources.")
    env: dict[str, str] = Field({}, description="Environment, such as NCCL_* variables.")
    shared_memory: str | None = Field(None, description="Size of /dev/shm, such as 16Gi.")
    image_pull_secrets: Annotated[list[str], Field(max_length=8)] = []
    capabilities: Annotated[list[str], Field(max_length=4)] = Field(
        [], description="Added capabilities, such as IPC_LOCK; an exception from restricted Pod Security."
    )


class AcceleratorProfile(Model):
    """One kind of node a stage can ask for."""

    name: Name
    node_selector: dict[str, str] = {}
    tolerations: Annotated[list[dict[str, Any]], Field(max_length=16)] = []
    resource_name: str | None = Field(None, description="Extended resource; none on plain CPU nodes.")
    memory_gib: Annotated[float, Field(gt=0)] = Field(description="Usable memory of one accelerator, GiB.")
    compute_capability: str | None = Field(None, description="CUDA compute capability, such as 8.6.")
    bandwidth_gbs: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Memory bandwidth, GB/s, for time estimates."
    )
    overlay: PodOverlay = PodOverlay()


class StoreProfile(Model):
    """Which stores resources may name."""

    name: Name
    prefixes: Annotated[list[str], Field(min_length=1, max_length=64)] = Field(
        description="Allowed URI prefixes, such as pvc:// or s3://team-."
    )


class Images(Model):
    """Image references of the three kinds of pod, with digest where known."""

    trainers: str
    serving: str
    triton_trtllm: str = "ghcr.io/anneal/serving-trtllm:26.04"
    sandboxes: dict[str, str] | None = Field(
        None,
        description="Language to the image that its programs are judged in; Python's may be a stage's own.",
    )

    def judges(self, own: str) -> dict[str, str]:
        """Return the images that judge programs, by language, for a stage whose own image is `own`."""
        return {"python": own, **(self.sandboxes or {})}


class OperatorConfig(Model):
    """The file the chart renders for the operator."""

    namespaces: list[str] = Field([], description="Watched namespaces; all when empty.")
    images: Images
    accelerators: list[AcceleratorProfile]
    stores: list[StoreProfile] = []
    gateway_env: dict[EnvOtel, str] = Field(
        {}, description="OpenTelemetry's standard environment variables, for every gateway."
    )

    def accelerator(self, name: str) -> AcceleratorProfile | None:
        """Return the accelerator profile called `name`, or None."""
        return next((p for p in self.accelerators if p.name == name), None)
