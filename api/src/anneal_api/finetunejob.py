"""FineTuneJob: distributed multi-task QLoRA fine-tuning of one base model.

The classes are the only source of the CRD, its defaults and the API reference.
Cross-field rules stand as CEL beside the class they belong to (`rules`).
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from anneal_api.base import (
    ArtifactRef,
    Condition,
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

DataFormat = Literal["auto", "chat_rounds", "messages", "pair", "text", "preference", "code"]


class BaseModelSource(Model):
    """The model to start from."""

    uri: Uri = Field(
        description="Folder of the base model in Hugging Face layout: pvc://claim/path, s3://bucket/path, "
        "hf://owner/model or file:///path (tests)."
    )
    revision: Annotated[str, StringConstraints(max_length=128)] | None = Field(
        None, description="Commit or tag of an hf:// model; pin it for reproducible runs."
    )
    secret_ref: SecretRef | None = Field(
        None, description="Secret with the store's endpoint and keys, labelled anneal.dev/use=storage."
    )


class TaskData(Model):
    """Where a task's rows are."""

    uri: Uri = Field(
        description="A .jsonl (optionally .gz or .zst) or .parquet file, a folder of them, a Hugging Face data set "
        "saved to disk, or a folder of source code."
    )
    format: DataFormat = Field(
        "auto",
        description="Shape of a row: chat_rounds (CodeFuse), messages (OpenAI), pair (prompt/answer, "
        "instruction/output, ...), text, preference (chosen/rejected), code (every file of a folder or git checkout "
        "is a text); auto reads all but code off the first row.",
    )


class Fim(Model):
    """Fill-in-the-middle at document level, before packing."""

    rate: Fraction = Field(0.0, description="Share of documents turned into fill-in-the-middle rows.")
    spm_rate: Fraction = Field(0.5, description="Share of those in suffix-prefix-middle order.")
    tokens: Literal["auto", "deepseek", "starcoder", "qwen", "codellama", "added", "instruction"] = Field(
        "auto",
        description="Family of sentinel tokens; auto reads it off the tokenizer. For a base without any: "
        "added trains and exports new tokens, instruction asks for the middle in a chat.",
    )
    loss: Literal["all", "middle"] = Field(
        "all",
        description="Which tokens of such a row are learned; sentinels never are, the end token always is.",
    )


class Task(Model):
    """One of the tasks trained together."""

    name: Name = Field(description="Unique name; losses and scores are reported by it.")
    data: TaskData = Field(description="Where the rows are.")
    weight: Annotated[float, Field(gt=0, le=1000)] = Field(
        1.0,
        description="Weight w_k of the task in the balanced loss; in tokenMean and rowMean each token or row "
        "of the task counts w_k times.",
    )
    fim: Fim = Field(Fim(), description="Fill-in-the-middle transformation of this task's documents.")
    sampling_share: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="Share of the sampled tokens; tasks without one divide what is left in proportion to "
        "their tokens. When any task has one, the run counts steps, and passes are reported by task.",
    )


class Split(Model):
    """How rows are divided by content hash; parts of a hundred."""

    rules: ClassVar[list[tuple[str, str]]] = [
        ("self.train + self.validation + self.test == 100", "split must add up to 100")
    ]
    train: Annotated[int, Field(ge=1, le=100)] = Field(95, description="Parts trained on.")
    validation: Annotated[int, Field(ge=0, le=99)] = Field(
        3, description="Parts watched during training (early stopping, best checkpoint)."
    )
    test: Annotated[int, Field(ge=0, le=99)] = Field(
        2, description="Parts held out for the final evaluation and the deployment gate."
    )


class Filters(Model):
    """What is taken out of rows, and which rows are left out, for what they hold."""

    enabled: bool = Field(
        False,
        description="Leave out raw code (rows of plain text) that heuristics find not worth learning: too short, too "
        "long, generated, encoded data, mostly comments, Python that does not parse, and so on.",
    )
    license_headers: Literal["keep", "remove"] = Field(
        "keep", description="The comment with licence or copyright that a row of plain text begins with."
    )
    personal_data: Literal["keep", "redact", "drop"] = Field(
        "keep",
        description="E-mail and public IP addresses, keys, tokens and passwords: redact replaces them, the same value by "
        "the same placeholder within a row; drop leaves out rows that have any.",
    )
    languages: Annotated[dict[str, Fraction], Field(max_length=64)] = Field(
        {},
        description="Share of a programming language's rows that stay, chosen by their content, such as html: 0.3; all of "
        "a language that is not named.",
    )


class Data(Model):
    """How rows become token sequences."""

    split: Split = Field(Split(), description="Division into training, validation and test rows.")
    max_length: Annotated[int, Field(ge=16, le=131_072)] = Field(
        4096, description="Longest sequence in tokens; also the size of a pack."
    )
    packing: Literal["bestFit", "none"] = Field(
        "bestFit", description="bestFit packs rows behind a document mask; none pads each batch."
    )
    over_length: Literal["truncate", "drop", "split"] = Field(
        "truncate", description="What happens to a row longer than maxLength; always counted."
    )
    wrong_rows: Literal["fail", "drop"] = Field(
        "fail", description="What happens when a row cannot be read or is of the wrong shape; drop counts it."
    )
    dedup: Literal["none", "exact", "near"] = Field(
        "none",
        description="Of duplicates within a task one row stays: exact ignores line ends and blank lines, near joins "
        "rows that share 7 in 10 of their 5-grams. Duplicates in several tasks stay, all in one part of the split.",
    )
    filters: Filters = Field(Filters(), description="What is taken out and left out.")
    decontaminate: Annotated[list[Suite], Field(max_length=16)] = Field(
        [],
        description="Evaluation suites; rows with ten words in a row of one of their problems are left out. humaneval, "
        "or the URI of a .jsonl file of problems (.gz or .zst too).",
    )


Linear = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""Linear layers of a block, by the names that all families share."""


class Adapter(Model):
    """The low-rank adapter that is trained."""

    type: Literal["qlora", "lora"] = Field(
        "qlora", description="qlora keeps the base in NF4 with double quantisation; lora in bf16/f32."
    )
    rank: Annotated[int, Field(ge=1, le=1024)] = Field(16, description="Rank r of the adapter.")
    alpha: Annotated[float, Field(gt=0, le=4096)] = Field(32.0, description="Scaling numerator (alpha/r).")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Dropout before the adapter.")
    targets: Annotated[list[Linear], Field(max_length=7)] = Field(
        [],
        description="Linear layers to adapt, by name, each once; all of them when empty.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    init_from: Uri | None = Field(None, description="Earlier adapter of the same base to continue from.")


class EarlyStopping(Model):
    """Stop when validation loss no longer falls."""

    patience: Annotated[int, Field(ge=0, le=100)] = Field(
        0,
        description="Stop once this many checkpoints in a row each have a validation loss above that of "
        "the checkpoint before the first of them; 0 never stops early.",
    )


class Coba(Model):
    """CoBa's constants (arXiv 2410.06741); only read when taskBalance is coba."""

    warmup_steps: Annotated[int, Field(ge=2, le=1_000_000)] = Field(
        100, description="Steps with the tasks' own weights before the first balanced ones."
    )
    history_steps: Annotated[int, Field(ge=2, le=1_000_000)] = Field(
        200, description="Measurements a slope is fitted over."
    )
    tau: Annotated[float, Field(gt=0, le=1000)] = Field(5.0, description="Temperature of divergence.")
    every_steps: Annotated[int, Field(ge=1, le=10_000)] = Field(1, description="Steps between updates.")
    rows: Annotated[int, Field(ge=1, le=1024)] = Field(
        4, description="Validation rows of each task that are measured, the same at every update."
    )


class Optimization(Model):
    """Objective, balance between tasks, schedule."""

    rules: ClassVar[list[tuple[str, str]]] = [
        ("!(has(self.epochs) && has(self.maxSteps))", "set epochs or maxSteps, not both"),
        (
            "!(has(self.globalBatchTokens) && has(self.globalBatchRows))",
            "set globalBatchTokens or globalBatchRows, not both",
        ),
        ("self.minLearningRate <= self.learningRate", "minLearningRate must not exceed learningRate"),
        ("!has(self.decaySteps) || self.schedule == 'wsd'", "decaySteps is only for schedule wsd"),
    ]
    objective: Literal["supervised", "dpo"] = Field("supervised", description="What is minimised.")
    task_balance: Literal["tokenMean", "rowMean", "taskMean", "taskRowMean", "coba", "lossDrop"] = Field(
        "taskMean",
        description="How losses of tasks are combined over a whole optimizer step: tokenMean (case1), "
        "rowMean (case2), taskMean (case3), taskRowMean (case4), coba, lossDrop (sampling shares).",
    )
    coba: Coba = Field(Coba(), description="Constants of taskBalance coba.")
    dpo_beta: Annotated[float, Field(gt=0, le=100)] = Field(
        0.1, description="Strength of the tie to the reference model under objective dpo."
    )
    schedule: Literal["cosine", "wsd"] = Field(
        "cosine", description="Learning rate after warm-up: half a cosine, or steady and then a linear decay."
    )
    decay_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="Steps of the decay of wsd; a tenth of the run when unset."
    )
    learning_rate: Annotated[float, Field(gt=0, le=1)] = Field(5e-5, description="Peak learning rate.")
    min_learning_rate: Annotated[float, Field(ge=0, le=1)] = Field(1e-6, description="Floor.")
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000)] = Field(0, description="Linear warm-up.")
    epochs: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        None, description="Passes over the training rows; 1 when neither epochs nor maxSteps is set."
    )
    max_steps: Annotated[int, Field(ge=1, le=100_000_000)] | None = Field(
        None, description="Optimizer steps; a run that reaches the end of the rows starts a new pass."
    )
    global_batch_tokens: Annotated[int, Field(ge=16, le=1_000_000_000)] | None = Field(
        None, description="Token positions of one optimizer step over all workers."
    )
    global_batch_rows: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="Rows of one optimizer step over all workers; 32 when neither is set."
    )
    early_stopping: EarlyStopping = Field(EarlyStopping(), description="When to stop early.")
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = Field(0, description="Seed of order and dropout.")


class Stage(Model):
    """One stage of progressive training: the adapter goes on, all else starts anew.

    Anew start the schedule, the optimizer's moments, early stopping, the best checkpoint and CoBa's history.
    """

    name: Name = Field(description="Unique name of the stage.")
    tasks: Annotated[list[Name], Field(max_length=64)] = Field(
        [], description="Tasks of this stage; all when empty."
    )
    curriculum: bool = Field(
        False,
        description="Take the rows of the first pass from easy to hard: by the number `difficulty` of a row, "
        "else by its learned tokens, ranked within each task.",
    )
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Peak of the stage; that of optimization when unset."
    )
    epochs: Annotated[float, Field(gt=0, le=1000)] = Field(
        1.0, description="Passes over the rows of the stage's tasks."
    )


class Workers(Model):
    """The group of pods that trains."""

    rules: ClassVar[list[tuple[str, str]]] = [
        ("!has(self.minNodes) || self.minNodes <= self.nodes", "minNodes must not exceed nodes")
    ]
    nodes: Annotated[int, Field(ge=1, le=1024)] = Field(1, description="Pods, each on a node of its own.")
    min_nodes: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None,
        description="Smallest group to go on with when no replacement comes; nodes when unset. A smaller group "
        "grows back after half an hour when there is room.",
    )
    accelerators_per_node: Annotated[int, Field(ge=1, le=16)] = Field(
        1, description="Accelerators, and so ranks, a pod."
    )
    accelerator: Name = Field(
        "a100-80g", description="Accelerator profile of the training pool, as the administrator named it."
    )
    strategy: Literal["ddp", "fsdp"] = Field("ddp", description="ddp holds the model on every rank.")
    start_timeout_seconds: Seconds = Field(
        600, description="A group that is not whole by then releases everything and tries again."
    )


class Checkpoint(Model):
    """How often state is saved, and how much of it is kept."""

    rules: ClassVar[list[tuple[str, str]]] = [
        ("!(has(self.everySteps) && has(self.everyMinutes))", "set everySteps or everyMinutes, not both")
    ]
    every_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="Optimizer steps between checkpoints; 100 when neither is set."
    )
    every_minutes: Annotated[int, Field(ge=1, le=1440)] | None = Field(
        None, description="Minutes between checkpoints."
    )
    keep: Annotated[int, Field(ge=1, le=100)] = Field(
        2, description="Newest checkpoints kept, beside the best."
    )


class FaultPolicy(Model):
    """How much is tried again, and when silence counts as a hang."""

    rules: ClassVar[list[tuple[str, str]]] = [
        (
            "!has(self.restartWindow) || self.maxRestarts <= 100",
            "with restartWindow maxRestarts must not exceed 100",
        )
    ]
    max_restarts: Annotated[int, Field(ge=0, le=1000)] = Field(
        3,
        description="New attempts of the training group before the job fails. Lost nodes, evictions, preemptions, "
        "an unreachable store and groups that did not start are tried again without counting.",
    )
    hang_timeout_seconds: Seconds | None = Field(
        None, description="A rank without a step for this long is hung; max(60, 5 x median step) if unset."
    )
    restart_window: Seconds | None = Field(
        None, description="Restarts older than this many seconds no longer count."
    )


class Evaluation(Model):
    """What is measured beside the loss of every task."""

    suites: Annotated[list[Suite], Field(max_length=16)] = Field(
        [],
        description="Suites the merged model is scored on: humaneval, or the URI of a .jsonl file of problems (.gz or "
        ".zst too) in the form of HumanEval, MBPP, HumanEval-X, MultiPL-E, or of one's own. Code that the model writes "
        "runs in a sandbox.",
    )
    every_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None,
        description="Optimizer steps between validations; checkpoint.everySteps when unset, or else 100.",
    )


class Telemetry(Model):
    """Where curves go beside /metrics and the TensorBoard files in the run's folder."""

    mlflow_uri: Annotated[str, StringConstraints(min_length=1, max_length=1024)] | None = Field(
        None, description="Tracking server of MLflow; needs an image with the library."
    )
    wandb_project: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = Field(
        None, description="Project of Weights & Biases; needs an image with the library."
    )
    secret_ref: SecretRef | None = Field(
        None,
        description="Secret with their keys as environment (WANDB_API_KEY, MLFLOW_TRACKING_TOKEN), labelled "
        "anneal.dev/use=tracking.",
    )


class Output(Model):
    """Where artifacts go, and what happens to them."""

    uri: StoreUri = Field(description="Artifact store: pvc://claim/path, s3://bucket/path, file:///path.")
    merge: bool = Field(True, description="Also publish the adapter merged into the base.")
    deletion_policy: Literal["Retain", "Delete"] = Field(
        "Retain", description="Delete removes what this job published when the job is deleted."
    )
    secret_ref: SecretRef | None = Field(
        None, description="Secret with the store's endpoint and keys, labelled anneal.dev/use=storage."
    )


class FineTuneJobSpec(Model):
    """Desired state of a FineTuneJob."""

    rules: ClassVar[list[tuple[str, str]]] = [
        (
            "self.tasks.all(t, self.tasks.exists_one(u, u.name == t.name))",
            "task names must be unique",
        ),
        (
            "size(self.stages) == 0 || !(has(self.optimization.epochs) || has(self.optimization.maxSteps))",
            "stages have epochs of their own: remove optimization.epochs and optimization.maxSteps",
        ),
        (
            "!has(self.evaluation.suites) || size(self.evaluation.suites) == 0 || self.output.merge",
            "suites are run on the merged model: set output.merge, or remove evaluation.suites",
        ),
        (
            "self.stages.all(s, self.stages.exists_one(u, u.name == s.name))",
            "stage names must be unique",
        ),
    ]
    suspend: bool = Field(False, description="Stop after a checkpoint and release all accelerators.")
    queue_name: ObjectName | None = Field(
        None,
        description="Kueue LocalQueue that admits the workers; their Job is made suspended and waits for Kueue.",
    )
    priority_class_name: ObjectName | None = Field(None, description="PriorityClass of the workers.")
    active_deadline_seconds: Seconds | None = Field(None, description="The job fails when it runs longer.")
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = Field(
        None, description="The finished job is deleted after this long."
    )
    service_account_name: ObjectName | None = Field(
        None,
        description="ServiceAccount for storage access (workload identity); no token is mounted without.",
    )
    base_model: BaseModelSource = Field(description="The model to start from.")
    chat_template: Annotated[str, StringConstraints(max_length=16_384)] | None = Field(
        None,
        description="Jinja chat template, or the word codefuse; the model's own when unset, "
        "CodeFuse's when it has none.",
    )
    tasks: Annotated[list[Task], Field(min_length=1, max_length=64)] = Field(
        description="Tasks trained together.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    data: Data = Field(Data(), description="How rows become token sequences.")
    adapter: Adapter = Field(Adapter(), description="The adapter that is trained.")
    optimization: Optimization = Field(Optimization(), description="Objective, balance, schedule.")
    stages: Annotated[list[Stage], Field(max_length=16)] = Field(
        [], description="Progressive training; one stage over all tasks when empty."
    )
    workers: Workers = Field(Workers(), description="The group of pods that trains.")
    checkpoint: Checkpoint = Field(Checkpoint(), description="How often state is saved.")
    fault_policy: FaultPolicy = Field(FaultPolicy(), description="How much is tried again.")
    evaluation: Evaluation = Field(Evaluation(), description="What is measured.")
    telemetry: Telemetry = Field(Telemetry(), description="Where curves go.")
    output: Output = Field(description="Where artifacts go.")


class Attempt(Model):
    """One try of the training group."""

    number: int = Field(description="1 for the first.")
    nodes: int = Field(0, description="Pods of the group; fewer than workers.nodes while it is shrunk.")
    cause: str = Field(
        "",
        description="Class of its end, which decides what follows: UserError, OutOfMemory, Crash, PeerLost, "
        "Hang, Eviction, Preemption, NodeLost, Accelerator, Storage, StartTimeout, KueueEviction, Suspended, "
        "Resized, Unknown; empty while it runs and when it succeeded.",
    )
    reason: str = Field("", description="Why it ended; empty while it runs.")
    message: Annotated[str, StringConstraints(max_length=1024)] = ""
    node: str = Field("", description="Node of the pod that failed first.")
    records: str = Field(
        "",
        description="Folder in the store with what it leaves: checkpoints and ledger and, where it did not succeed, "
        "logs, heartbeats, memory, stack dumps and flight records of its pods.",
    )
    started: str = ""
    admitted: bool = Field(False, description="Whether Kueue has admitted the group; only with queueName.")
    training: str = Field("", description="When its first step was seen, which is up to 15 s late.")
    ended: str = ""
    first_step: int | None = Field(None, description="The first step that was seen of it.")
    step: int | None = Field(None, description="The last step that is known of it.")
    lost_steps: int | None = Field(
        None,
        description="Steps after its newest checkpoint, done again by the next attempt; of a group that was asked to "
        "stop it is known once the next attempt trains.",
    )
    recovery_seconds: int | None = Field(
        None, description="From its end to the next attempt's first step as it was seen."
    )


class AvoidedNode(Model):
    """A node that ended attempts, which the next ones stay away from for a while."""

    name: str
    failures: int = Field(1, description="Attempts it ended; from the second on it is left out for a day.")
    until: str = Field(description="When it is taken again.")


class RetryStatus(Model):
    """What the annotation anneal.dev/retry has led to."""

    value: str = Field(description="The annotation's last value; another one tries a failed job again.")
    attempt: int = Field(0, description="Last attempt before it; those until then no longer count.")
    since: str = Field(
        "", description="When the failed job was taken up again; what failed before is made anew."
    )


class ProgressStatus(Model):
    """How far training is; for display, no decision depends on it."""

    step: int = 0
    total_steps: int = 0
    percent: int = 0
    loss: str = Field("", description="Training loss of the last step.")
    validation_loss: str = Field(
        "",
        description="Balanced validation loss of the last validation; once training is over, that of the best step, "
        "which is published.",
    )
    task_losses: dict[str, str] = Field({}, description="Validation loss by task.")
    tokens_per_second: str = ""
    time_left_seconds: int | None = Field(
        None, description="Estimate from the steps of the current attempt; unset until two were seen."
    )


class CheckpointStatus(Model):
    """Newest and best saved state, by optimizer step."""

    latest: int | None = None
    best: int | None = None


class TaskScore(Model):
    """Held-out loss and perplexity of one task before and after."""

    name: str
    base_loss: str
    tuned_loss: str
    base_perplexity: str = Field("", description="e to the loss, where that is a mean over tokens.")
    tuned_perplexity: str = ""
    rows: int = 0


class SuiteScore(Model):
    """What the merged model scored on a suite: its first figure, which is pass@1 where code is run."""

    suite: str
    score: str = Field("", description="pass@1, exact match, edit similarity, BLEU-4 or F1.")
    value: str = ""
    interval: str = Field("", description="95% confidence interval.")
    problems: int = 0


class FineTuneArtifacts(Model):
    """What the run has published."""

    dataset: ArtifactRef | None = None
    report: str | None = Field(
        None, description="The page that tells what became of the rows, beside the data set."
    )
    adapter: ArtifactRef | None = None
    evaluation: ArtifactRef | None = None
    merged: ArtifactRef | None = None
    suites: ArtifactRef | None = None


class MemoryPlan(Model):
    """Arithmetic of what a rank needs, against what the profile has; all in GiB as text."""

    needed: str = ""
    available: str = ""
    detail: str = ""


class FineTuneJobStatus(Model):
    """Observed state of a FineTuneJob; written by the operator alone."""

    observed_generation: int = 0
    phase: str = Field("", description="For display; conditions are what programs read.")
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(
        [],
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    progress: ProgressStatus | None = None
    nodes: int | None = Field(None, description="Pods of the current or next group.")
    restarts: int = Field(0, description="Restarts that counted, since the start or the last retry.")
    restart_times: Annotated[list[str], Field(max_length=100)] = Field(
        [], description="When those within faultPolicy.restartWindow were; empty without a window."
    )
    retry: RetryStatus | None = None
    avoided: Annotated[list[AvoidedNode], Field(max_length=16)] = Field(
        [], description="Nodes the next attempts stay away from."
    )
    attempts: Annotated[list[Attempt], Field(max_length=20)] = []
    checkpoints: CheckpointStatus | None = None
    scores: Annotated[list[TaskScore], Field(max_length=64)] = []
    suite_scores: Annotated[list[SuiteScore], Field(max_length=16)] = []
    artifacts: FineTuneArtifacts = FineTuneArtifacts()
    plan: MemoryPlan | None = None
    accelerator_seconds: int = Field(
        0,
        description="Accelerators times seconds that ended attempts held them: from when the group was made, with "
        "queueName from its first step.",
    )
    run: str = Field("", description="Identity of the plan this run follows.")
    start_time: str | None = None
    completion_time: str | None = None
