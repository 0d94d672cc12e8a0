"""How a pod says what became of its stage: exit code, and the termination message (at most 4 KiB of JSON)."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from anneal_api.base import ArtifactRef, Model
from anneal_api.memory import ModelShape

EXIT_OK = 0
EXIT_CONFIG = 64
"""The user's configuration is wrong (sysexits EX_USAGE); never tried again."""
EXIT_SOFTWARE = 70
"""The stage failed for a cause of its own (sysexits EX_SOFTWARE)."""
EXIT_TRY_AGAIN = 75
"""Preempted, or the store was away (sysexits EX_TEMPFAIL)."""

TERMINATION_LIMIT = 4096

Verdict = Literal["Succeeded", "Refused", "Retry", "Failed"]
EXIT_CODES: dict[str, int] = {
    "Succeeded": EXIT_OK,
    "Refused": EXIT_CONFIG,
    "Retry": EXIT_TRY_AGAIN,
    "Failed": EXIT_SOFTWARE,
}


class Outcome(Model):
    """The termination message of every stage."""

    version: Literal[1] = 1
    verdict: Verdict
    reason: str = Field(description="CamelCase, becomes the condition's reason.")
    message: Annotated[str, StringConstraints(max_length=2048)] = ""
    result: dict[str, Any] = Field({}, description="One of the result types below, by stage.")


class TaskFacts(Model):
    """What inspection found out about one task's rows."""

    name: str
    digest: str
    rows: int


class FineTuneKeys(Model):
    """Content keys of the stages of a fine-tuning run."""

    prepare: str
    train: str
    evaluate: str
    export: str
    suites: str = ""


class FineTuneInspection(Model):
    """Result of a FineTuneJob's inspect stage."""

    base_digest: str
    initial_digest: str | None = Field(None, description="Of the adapter that initFrom names.")
    shape: ModelShape
    tasks: list[TaskFacts]
    shards: int = Field(1, description="How many pods read the tasks' files; by their sizes.")
    keys: FineTuneKeys
    published: dict[str, ArtifactRef] = Field({}, description="Stages whose key is published already.")
    scores: list["Score"] = Field([], description="Scores, when the evaluation is published already.")
    suite_scores: list["SuiteScore"] = Field(
        [], description="Those of suites, when they are published already."
    )
    judged: list[str] | None = Field(None, description="Languages whose programs the suites run.")


class DeploymentKeys(Model):
    """Content keys of the stages of a model version."""

    quantize: str
    engine: str
    gate: str


class DeploymentInspection(Model):
    """Result of a ModelDeployment's inspect stage."""

    model: ArtifactRef
    shape: ModelShape
    keys: DeploymentKeys
    published: dict[str, ArtifactRef] = {}
    gate: "GateResult | None" = Field(None, description="The measurement, when it is published already.")
    judged: list[str] | None = Field(None, description="Languages whose programs the gate's suites run.")


class PublishResult(Model):
    """Result of a stage that publishes one artifact."""

    artifact: ArtifactRef


class TrainResult(PublishResult):
    """Result of the train stage."""

    step: int
    best_step: int
    loss: float | None = Field(None, description="Training loss of the last step.")
    validation_loss: float | None = Field(
        None, description="Of the best step, which is published; unset without validation rows."
    )


class TrainReached(Model):
    """Result of a train stage that ended before its time: how far it got."""

    step: int = Field(description="Last step that was finished.")
    checkpoint: int | None = Field(None, description="Newest checkpoint that can be gone on from.")


class Score(Model):
    """Held-out loss (nats a token) of one task, before and after."""

    name: str
    base_loss: float
    tuned_loss: float
    rows: int


class EvaluateResult(PublishResult):
    """Result of the evaluate stage."""

    scores: list[Score]


class SuiteScore(Model):
    """A suite's first figure, with its 95% interval."""

    suite: str
    score: str
    value: float
    low: float
    high: float
    problems: int


class SuitesResult(PublishResult):
    """Result of the suites stage."""

    scores: list[SuiteScore]


class GateSuite(Model):
    """A suite's score, the engine's against full precision's on the same problems."""

    name: str
    reference: float
    engine: float
    decision: Literal["better", "worse", "undecided"]
    problems: int = Field(0, description="How many were solved or not; 0 where an earlier release measured.")
    reference_low: float = Field(0.0, description="95% interval of full precision's score.")
    reference_high: float = 0.0
    engine_low: float = Field(0.0, description="95% interval of the engine's.")
    engine_high: float = 0.0


class GateTask(Model):
    """Held-out perplexity of one task, full precision against the engine, and the mean KL divergence between them."""

    name: str
    reference_perplexity: float
    engine_perplexity: float
    logit_kl: Annotated[float | None, Field(alias="logitKL")] = None


class GateResult(PublishResult):
    """Result of the gate stage; the operator compares it with the budget of the spec."""

    logit_kl: Annotated[float, Field(alias="logitKL")]
    perplexity_increase: float = Field(description="Largest relative increase of any task.")
    tokens: int
    tasks: list[GateTask]
    suites: list[GateSuite] = []
    diagnosis: str = Field("", description="Where full precision is left, when the budget is exceeded.")
