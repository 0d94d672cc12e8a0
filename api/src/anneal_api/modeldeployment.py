"""ModelDeployment: a model compiled to INT4, gated on accuracy, served behind an OpenAI-compatible endpoint."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from anneal_api.base import (
    Condition,
    Digest,
    Fraction,
    Model,
    Name,
    ObjectName,
    Seconds,
    SecretRef,
    StoreUri,
    Suite,
    Uri,
)


class FineTuneJobRef(Model):
    """A FineTuneJob of the same namespace."""

    name: ObjectName = Field(description="Name of the FineTuneJob.")


class ModelSource(Model):
    """What is served; adopted once as uri and digest, so the job may be deleted afterwards."""

    rules: ClassVar[list[tuple[str, str]]] = [
        (
            "[has(self.fineTuneJobRef), has(self.selector), has(self.uri)].exists_one(x, x)",
            "set exactly one of fineTuneJobRef, selector and uri",
        )
    ]
    fine_tune_job_ref: FineTuneJobRef | None = Field(None, description="Serve this job's merged model.")
    selector: Annotated[dict[str, str], Field(min_length=1, max_length=16)] | None = Field(
        None,
        description="Follow the newest successful FineTuneJob with these labels, from success to success.",
    )
    uri: Uri | None = Field(None, description="Folder of a published model artifact.")
    secret_ref: SecretRef | None = Field(
        None, description="Secret with the store's endpoint and keys, labelled anneal.dev/use=storage."
    )
    version: Digest | None = Field(None, description="Pin: serve only the artifact with this digest.")


class Calibration(Model):
    """Rows that AWQ looks at."""

    uri: Uri | None = Field(
        None,
        description="Artifact with calibration rows, such as another job's merged model; the model's own when unset.",
    )
    samples: Annotated[int, Field(ge=1, le=4096)] = Field(128, description="Sequences used.")


class Quantization(Model):
    """How weights become four bits."""

    method: Literal["awq", "rtn", "none"] = Field(
        "awq", description="awq searches activation-aware scales, rtn rounds, none keeps float16."
    )
    group_size: Literal[32, 64, 128] = Field(128, description="Weights that share a scale.")
    calibration: Calibration = Field(Calibration(), description="Rows that AWQ looks at.")
    accelerator: Name | None = Field(
        None, description="Profile to quantise on; a large model's AWQ needs one, rounding needs none."
    )

    @property
    def group(self) -> int | None:
        """Weights that share a scale; None where weights stay in full precision."""
        return None if self.method == "none" else self.group_size


class Engine(Model):
    """What the artifact is compiled to, and for which limits."""

    rules: ClassVar[list[tuple[str, str]]] = [
        ("self.maxInputLength < self.maxSequenceLength", "maxInputLength must be below maxSequenceLength")
    ]
    runtime: Literal["tensorrt-llm-engine", "tensorrt-llm-pytorch", "openvino"] = Field(
        "tensorrt-llm-engine", description="openvino runs on a CPU."
    )
    max_batch_size: Annotated[int, Field(ge=1, le=1024)] = Field(8, description="Sequences at once.")
    max_input_length: Annotated[int, Field(ge=1, le=131_072)] = Field(4096, description="Prompt tokens.")
    max_sequence_length: Annotated[int, Field(ge=2, le=262_144)] = Field(
        6144, description="Prompt and generated tokens of one sequence."
    )
    kv_cache_type: Literal["auto", "fp16", "int8"] = Field(
        "auto", description="Precision of the KV cache; auto is fp16, int8 is built for openvino."
    )
    tensor_parallel_size: Annotated[int, Field(ge=1, le=8)] = Field(1, description="Accelerators a replica.")


class SuiteBudget(Model):
    """How much a suite's score may drop."""

    name: Suite = Field(
        description="humaneval or a URI, one of the suites that the model's FineTuneJob was scored on: its samples "
        "are what the engine's are compared with."
    )
    max_drop: Annotated[float, Field(ge=0, le=100)] = Field(
        1.0,
        description="Points (per cent) the score may drop. A larger drop refuses the version when a paired test tells "
        "it from chance; where the suite is too small to tell, status says undecided and the version passes.",
    )


class Gate(Model):
    """The accuracy budget a compiled model must keep before it may serve."""

    accelerator: Name | None = Field(
        None,
        description="Profile to measure on, of the replicas' compute capability; the replicas' own when unset.",
    )
    max_logit_kl: Annotated[float, Field(gt=0, le=100)] = Field(
        0.1, alias="maxLogitKL", description="Mean KL divergence (nats a token) to full precision."
    )
    max_perplexity_increase: Annotated[float, Field(gt=0, le=100)] = Field(
        0.1, description="Relative increase over full precision of any task's perplexity; 0.1 is 10%."
    )
    suites: Annotated[list[SuiteBudget], Field(max_length=16)] = Field([], description="Suites to run.")


class Autoscaling(Model):
    """How many replicas follow the load."""

    rules: ClassVar[list[tuple[str, str]]] = [
        ("self.minReplicas <= self.maxReplicas", "minReplicas must not exceed maxReplicas")
    ]
    min_replicas: Annotated[int, Field(ge=0, le=1000)] = Field(1, description="0 sleeps when idle.")
    max_replicas: Annotated[int, Field(ge=1, le=1000)] = Field(1, description="Most replicas.")
    target_utilization: Annotated[float, Field(gt=0, le=1)] = Field(
        0.7, description="Share of a replica's slots, and of its KV cache, to keep in use."
    )
    scale_down_stabilization_seconds: Annotated[int, Field(ge=0, le=86_400)] = Field(
        300, description="Load must stay lower for this long before a replica is removed."
    )


class Rollout(Model):
    """How a new version takes over."""

    rules: ClassVar[list[tuple[str, str]]] = [
        ("self.steps.isSorted()", "steps must not descend"),
        (
            "self.strategy != 'recreate' || size(self.steps) == 0",
            "recreate takes no steps: it ends the old version first",
        ),
    ]
    strategy: Literal["surge", "borrowReplica", "recreate"] = Field(
        "surge",
        description="surge starts the new replicas beside the old ones; borrowReplica and recreate need no spare "
        "accelerator and cost capacity: borrowReplica takes them from the old version step by step, recreate ends "
        "the old version first.",
    )
    steps: Annotated[list[Annotated[int, Field(ge=1, le=100)]], Field(max_length=10)] = Field(
        [], description="Shares of traffic (per cent) on the way to 100."
    )
    pause_seconds: Annotated[int, Field(ge=0, le=86_400)] = Field(
        60, description="Time for which a step, and 100 at the end, is watched; with 0 none is waited for."
    )
    max_error_rate: Fraction = Field(
        0.01, description="A larger share of failed requests, beyond chance, rolls back."
    )
    max_latency_ratio: Annotated[float, Field(ge=1, le=100)] = Field(
        1.5,
        description="A new version slower than the old by more than this is rolled back: to the first token, or "
        "between tokens, whichever is worse.",
    )
    progress_deadline_seconds: Seconds = Field(
        1800, description="A step whose replicas are not ready by then ends the rollout."
    )
    revision_history_limit: Annotated[int, Field(ge=1, le=20)] = Field(3, description="Versions kept.")


class Gateway(Model):
    """The OpenAI-compatible front."""

    replicas: Annotated[int, Field(ge=1, le=100)] = Field(1, description="Gateway pods.")
    api_keys_secret: SecretRef | None = Field(
        None,
        description="Secret whose values are accepted API keys, labelled anneal.dev/use=api-keys: an entry is a "
        'client\'s name and its key, or JSON with limits: {"key": "...", "requestsPerMinute": 60, '
        '"tokensPerMinute": 20000, "concurrentRequests": 4}. Open to the cluster when unset.',
    )
    max_queue: Annotated[int, Field(ge=0, le=100_000)] = Field(
        256, description="Requests held before 429 with Retry-After."
    )
    request_timeout_seconds: Seconds = Field(600, description="Longest time a request may take.")
    cache: bool = Field(
        False,
        description="Answer repeated deterministic requests (temperature 0, or a seed) from memory, for each "
        "API key apart.",
    )


class Storage(Model):
    """Where the deployment's own artifacts go."""

    uri: StoreUri | None = Field(None, description="Artifact store; the model's own store when unset.")


class ModelDeploymentSpec(Model):
    """Desired state of a ModelDeployment."""

    rules: ClassVar[list[tuple[str, str]]] = [
        ("!(has(self.replicas) && has(self.autoscaling))", "set replicas or autoscaling, not both")
    ]
    model: ModelSource = Field(description="What is served.")
    storage: Storage = Field(Storage(), description="Where quantised weights and engines go.")
    quantization: Quantization = Field(Quantization(), description="How weights become four bits.")
    engine: Engine = Field(Engine(), description="What the weights are compiled to.")
    accelerator: Name = Field("a10-24g", description="Accelerator profile of the serving pool.")
    gate: Gate = Field(Gate(), description="The accuracy budget.")
    replicas: Annotated[int, Field(ge=0, le=1000)] | None = Field(
        None, description="Fixed number of replicas (/scale writes it); 1 when autoscaling is unset too."
    )
    autoscaling: Autoscaling | None = Field(None, description="Replicas that follow the load.")
    rollout: Rollout = Field(Rollout(), description="How a new version takes over.")
    drain_seconds: Annotated[int, Field(ge=1, le=3600)] = Field(
        120, description="Time a replica gets to finish its streams before it ends."
    )
    gateway: Gateway = Field(Gateway(), description="The OpenAI-compatible front.")


class GateSuite(Model):
    """A suite's score, the engine's against full precision's."""

    name: str
    reference: str = ""
    engine: str = ""
    drop: str = Field("", description="Points.")
    decision: str = Field(
        "", description="better, worse, or undecided, by McNemar's test on the same problems."
    )


class GateScore(Model):
    """What the gate measured."""

    logit_kl: str = Field("", alias="logitKL")
    perplexity_increase: str = ""
    suites: Annotated[list[GateSuite], Field(max_length=16)] = []
    detail: str = ""


class ServedVersion(Model):
    """One model version on its way to, or behind, the endpoint."""

    digest: str = Field(description="Digest of the adopted model artifact.")
    uri: str = Field("", description="Where that artifact lies.")
    stage: str = Field(
        "",
        description="Inspecting, Quantizing, Compiling, Gating, Starting (replicas for its next share), Canary, Serving, "
        "Draining, Retired; Refused (bad input, or beyond the accuracy budget), Failed, TimedOut, RolledBack, "
        "Superseded (another was wanted before it served).",
    )
    since: str = Field("", description="When it reached this stage.")
    run: str = Field("", description="Identity of the plan this version follows.")
    engine: str = Field("", description="Digest of the engine artifact.")
    traffic_percent: int = 0
    gate: GateScore | None = None
    message: str = Field("", description="Why it was refused.")


class Followed(Model):
    """Where following a selector has come to; it never goes back to an earlier success."""

    selector: dict[str, str]
    job: str = Field(description="The FineTuneJob whose model was adopted.")
    completed: str = Field(description="When that job completed.")


class ModelDeploymentStatus(Model):
    """Observed state of a ModelDeployment; written by the operator alone."""

    observed_generation: int = 0
    phase: str = Field("", description="For display; conditions are what programs read.")
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(
        [],
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    versions: Annotated[list[ServedVersion], Field(max_length=20)] = []
    followed: Followed | None = None
    replicas: int = Field(0, description="Replicas that exist.")
    ready_replicas: int = 0
    desired_replicas: int = 0
    selector: str = Field("", description="Label selector of the replicas, for /scale.")
    accelerator_seconds: int = Field(
        0,
        description="Accelerators times seconds that pods of replicas and of building stages held them, from when each "
        "had a node; brought up to date when what is held changes, and every quarter of an hour.",
    )
    accelerators: int = Field(0, description="Accelerators that pods hold now.")
    charged_until: str | None = Field(
        None, description="Up to when acceleratorSeconds is counted; unset while none is held."
    )
    load: str = Field("", description="Requests waiting and active at the last look.")
    scale_down_since: str | None = Field(None, description="Since when fewer replicas would do.")
    url: str = ""
