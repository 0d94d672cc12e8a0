"""Run configs: what a pod is told, as JSON in the plan's ConfigMap, mounted read-only at RUN_PATH.

A run config is the frozen, defaulted spec together with what inspection found out, so no field
exists twice. Everything that differs between pods of one run comes by environment.
"""

from typing import Annotated, Literal

from pydantic import Field

from anneal_api.base import ArtifactRef, Model
from anneal_api.finetunejob import FineTuneJobSpec
from anneal_api.modeldeployment import ModelDeploymentSpec
from anneal_api.outcome import DeploymentInspection, FineTuneInspection
from anneal_api.profiles import AcceleratorProfile

RUN_PATH = "/etc/anneal/run.json"
VOLUME_ROOT = "/mnt/anneal"
"""Claim C of a pvc:// URI is mounted at VOLUME_ROOT/C."""
PROGRESS_PORT = 9400
RENDEZVOUS_PORT = 29400

GATEWAY_KEY = "gateway.json"
"""Where a gateway's ConfigMap holds its GatewayConfig."""
KEYS_FOLDER = "/etc/anneal-keys"
"""Where the gateway finds its API keys: the Secret spec.gateway.apiKeysSecret, mounted."""

ENV_RUN = "ANNEAL_RUN"
ENV_VOLUMES = "ANNEAL_VOLUMES"
ENV_TERMINATION_LOG = "ANNEAL_TERMINATION_LOG"
ENV_POD_UID = "ANNEAL_POD_UID"
ENV_NEARBY = "ANNEAL_NEARBY"
"""http://host:port of the copies of weights that the pod's own node has; unset where its profile has none."""
ENV_ATTEMPT = "ANNEAL_ATTEMPT"
ENV_JUDGES = "ANNEAL_JUDGES"
"""Languages, by commas, whose programs a container beside the work judges; before a plan: could judge."""
JUDGES_FOLDER = "/judges"
"""Where the judges of a pod listen, each at a socket named like its language."""
ENV_NODES = "ANNEAL_NODES"
ENV_NODE_RANK = "JOB_COMPLETION_INDEX"
ENV_RENDEZVOUS = "ANNEAL_RENDEZVOUS"
"""host:port of the group's first pod."""
ENV_GRACE = "ANNEAL_GRACE_SECONDS"
"""Seconds from SIGTERM until the kubelet kills the pod."""
ENV_FLIGHT_RECORD = "TORCH_FR_DUMP_TEMP_FILE"
"""torch's: the flight recorder appends the rank and writes there what it holds."""
ENV_FLIGHT_PIPE = "TORCH_NCCL_DEBUG_INFO_PIPE_FILE"
"""torch's: with the rank and `.pipe` appended, a pipe; a byte written to it asks for the file."""
FLIGHT_RECORD = "/tmp/nccl-flight-"
FLIGHT_PIPE = "/tmp/nccl-pipe-"
"""What the operator sets them to."""


class FineTuneRun(Model):
    """What the pods of a FineTuneJob are told; `inspection` is unset for the inspect stage itself."""

    version: Literal[1] = 1
    namespace: str
    name: str
    uid: str
    spec: FineTuneJobSpec
    accelerator: AcceleratorProfile
    inspection: FineTuneInspection | None = None


def runs_folder(run: FineTuneRun) -> str:
    """Return where a run's working state lies: a folder an attempt, and what all attempts share beside."""
    return f"{run.spec.output.uri.rstrip('/')}/{run.namespace}/runs/{run.name}-{run.uid[:8]}"


def attempt_folder(runs: str, attempt: int) -> str:
    """Return where, in a run's folder, an attempt leaves its checkpoints and ledger, and when it does not succeed its pods' records.

    Those of pod P's rank N in the whole group: logs/P-rank-N.log, heartbeats/P-rank-N.jsonl, and after a hang
    stacks/P-rank-N.stacks and flight/P-rank-N; of the pod: memory/P.txt.
    """
    return f"{runs}/attempt-{attempt}"


class DeploymentRun(Model):
    """What the pods of a ModelDeployment's version are told."""

    version: Literal[1] = 1
    namespace: str
    name: str
    uid: str
    spec: ModelDeploymentSpec
    accelerator: AcceleratorProfile
    model: ArtifactRef
    store: str = ""
    """Store URI for this version's artifacts; never empty once inspected."""
    inspection: DeploymentInspection | None = None


class GatewayVersion(Model):
    """One version of the model behind a gateway."""

    name: str
    """Identity of the version, the `run` of its entry in the status."""
    weight: Annotated[int, Field(ge=0, le=100)]
    """Share of new requests, per cent; with 0 it only stands ready."""
    service: str
    """Headless Service of the replicas; its EndpointSlices are watched."""
    engine: ArtifactRef
    """The engine artifact, whose tokenizer and chat template the gateway uses."""
    max_batch_size: int
    max_input_length: int
    max_sequence_length: int
    runtime: str = "openvino"
    """The engine's runtime, on which depends what a request may ask for."""


class GatewayConfig(Model):
    """What the gateway routes to; changed by the operator with every step of a rollout."""

    version: Literal[1] = 1
    model: str
    namespace: str
    versions: Annotated[list[GatewayVersion], Field(min_length=1)]
    trial: str = ""
    """Names the step of a rollout; when it changes, what each version does is counted anew."""
    config_map: str = ""
    """The ConfigMap this stands in, watched so that a change is known at once; the mounted file comes a minute later."""
    max_queue: int
    request_timeout_seconds: int
    api_keys: bool = False
    """Whether a request needs a key; with none mounted, none is let in."""
    cache: bool = False
    """Whether repeated deterministic requests are answered from memory."""


class Progress(Model):
    """What the launcher answers on /progress."""

    version: Literal[1] = 1
    attempt: int = 1
    step: int = 0
    total_steps: int = 0
    loss: float | None = None
    validation_loss: float | None = None
    task_losses: dict[str, float] = {}
    stage: str = ""
    passes: dict[str, float] = {}
    """How often each task's rows have been taken in the stage."""
    learning_rate: float | None = None
    gradient_norm: float | None = None
    tokens_per_second: float | None = None
    latest_checkpoint: int | None = None
    best_checkpoint: int | None = None
    resumed_step: int | None = None
    """Step of the checkpoint the attempt has gone on from; 0 when it began anew."""
