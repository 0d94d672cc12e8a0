"""Builders of a FineTuneJob's children; every one is a function of the run and nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from anneal_api.base import LABEL_ATTEMPT, LABEL_JOB, LABEL_STAGE, SecretRef, wire
from anneal_api.finetunejob import FineTuneJobSpec
from anneal_api.profiles import AcceleratorProfile
from anneal_api.runs import (
    ENV_ATTEMPT,
    ENV_FLIGHT_PIPE,
    ENV_FLIGHT_RECORD,
    ENV_GRACE,
    ENV_JUDGES,
    ENV_NODES,
    ENV_RENDEZVOUS,
    FLIGHT_PIPE,
    FLIGHT_RECORD,
    PROGRESS_PORT,
    RENDEZVOUS_PORT,
    FineTuneRun,
)
from anneal_operator import naming, objects, plan, pods, uris
from anneal_operator.decision import Object
from anneal_operator.finetunejob import kueue

REQUESTS = {
    "inspect": {"cpu": "100m", "memory": "256Mi"},
    "shard": {"cpu": "1", "memory": "1Gi"},
    "prepare": {"cpu": "200m", "memory": "512Mi"},
    "train": {"cpu": "500m", "memory": "1Gi"},
    "evaluate": {"cpu": "300m", "memory": "1Gi"},
    "export": {"cpu": "300m", "memory": "1Gi"},
    "suites": {"cpu": "500m", "memory": "2Gi"},
    "delete": {"cpu": "100m", "memory": "128Mi"},
}
"""What a stage's pod asks for unless the accelerator's overlay says otherwise; none has a CPU limit."""
JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
"""Set on every pod by the Job controller."""
HOSTNAME_LABEL = "kubernetes.io/hostname"
TRAIN_GRACE = 120
"""Seconds a training group gets to save a checkpoint."""
FLIGHT_RECORDER = {
    "TORCH_FR_BUFFER_SIZE": "2000",
    ENV_FLIGHT_RECORD: FLIGHT_RECORD,
    ENV_FLIGHT_PIPE: FLIGHT_PIPE,
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
}
"""torch's flight recorder keeps the last collectives; the launcher asks for them when a rank hangs."""
DELETE_TTL = 600


@dataclass(frozen=True)
class Site:
    """Where children are made: the owner, the run they follow, and the images they use."""

    owner: Object
    namespace: str
    run: FineTuneRun
    config_map: str
    image: str
    plain: AcceleratorProfile
    judges: Mapping[str, str] = field(default_factory=dict)
    """Language to the image that judges its programs."""

    def name(self, stage: str, *parts: object) -> str:
        """Return the deterministic name of a child."""
        return naming.child_name(self.run.name, stage, self.run.uid, stage, *parts)


def labels(run: FineTuneRun, stage: str, attempt: int | None = None) -> dict[str, str]:
    """Return the labels of a child."""
    common = {LABEL_JOB: naming.label_value(run.name), LABEL_STAGE: stage}
    return common if attempt is None else {**common, LABEL_ATTEMPT: str(attempt)}


def metadata(site: Site, name: str, stage: str, attempt: int | None = None) -> Object:
    """Return the metadata of a child."""
    notes = {pods.OWNER_ANNOTATION: site.run.name}
    return objects.meta(name, site.namespace, site.owner, labels(site.run, stage, attempt), notes)


def run_config(site: Site) -> Object:
    """Return the ConfigMap of the inspect stage, whose run is not planned yet."""
    meta = metadata(site, site.config_map, "inspect")
    return objects.config_map(meta, {plan.RUN_KEY: plan.text(site.run)}, immutable=True)


def stage(site: Site, name: str, stage: str, *, command: str | None = None) -> Object:
    """Return the Job of a stage that is one pod."""
    return objects.stage_job(metadata(site, name, stage), _template(site, stage, command or stage))


def shards(site: Site, name: str, count: int) -> Object:
    """Return the Indexed Job whose pods read a share each of the tasks' files."""
    return objects.shards_job(metadata(site, name, "shard"), _template(site, "shard", "shard"), count)


def artifact_deletion(site: Site, name: str) -> Object:
    """Return the Job that removes what the run has published; it removes itself afterwards."""
    made = stage(site, name, "delete")
    return {**made, "spec": {**made["spec"], "ttlSecondsAfterFinished": DELETE_TTL}}


def _template(site: Site, stage: str, command: str) -> Object:
    work = _work(site, stage, command, accelerated=stage in ("evaluate", "export", "suites"))
    return pods.template(work, labels(site.run, stage), {pods.OWNER_ANNOTATION: site.run.name})


def _work(site: Site, stage: str, command: str, *, accelerated: bool) -> pods.Work:
    spec = site.run.spec
    return pods.Work(
        image=site.image,
        command=("python3", "-m", "anneal_trainers", command),
        config_map=site.config_map,
        config_key=plan.RUN_KEY,
        claims=claims(spec),
        secrets=secrets(spec),
        profile=site.run.accelerator if accelerated else site.plain,
        requests=REQUESTS[stage],
        accelerators=1 if accelerated else 0,
        env={ENV_JUDGES: ",".join(sorted(site.judges))} if stage == "inspect" else {},
        judges=_judges(site) if stage == "suites" else {},
        service_account=spec.service_account_name,
    )


def _judges(site: Site) -> dict[str, str]:
    """Return the judges that inspection found the suites to need."""
    needed = (site.run.inspection and site.run.inspection.judged) or []
    return {language: site.judges[language] for language in needed if language in site.judges}


def claims(spec: FineTuneJobSpec) -> dict[str, bool]:
    """Return the claims of a run; the store's alone is writable."""
    inputs = [
        spec.base_model.uri,
        spec.adapter.init_from,
        *(task.data.uri for task in spec.tasks),
        *spec.data.decontaminate,
        *spec.evaluation.suites,
    ]
    return uris.claims(inputs, [spec.output.uri])


def secrets(spec: FineTuneJobSpec, *more: SecretRef | None) -> list[str]:
    """Return the Secrets of a run's stores and `more`, each once."""
    refs = (spec.base_model.secret_ref, spec.output.secret_ref, *more)
    return sorted({ref.name for ref in refs if ref})


def train_name(site: Site, attempt: int) -> str:
    """Return the name of an attempt's Job."""
    return naming.child_name(site.run.name, f"train-{attempt}", site.run.uid, "train", attempt)


def service_name(site: Site) -> str:
    """Return the name of the Service of all attempts; pods of different attempts have different host names."""
    return naming.child_name(site.run.name, "train", site.run.uid, "service")


def train_service(site: Site) -> Object:
    """Return the Service by which the pods of a group find each other before they are ready."""
    ports = {"rendezvous": RENDEZVOUS_PORT, "metrics": PROGRESS_PORT}
    meta = metadata(site, service_name(site), "train")
    return objects.headless_service(meta, labels(site.run, "train"), ports, not_ready=True)


def train_job(site: Site, attempt: int, nodes: int, avoided: Sequence[str] = ()) -> Object:
    """Return the Indexed Job of one attempt: one pod a node, all or nothing, on none of the `avoided` nodes."""
    name, spec = train_name(site, attempt), site.run.spec
    tags = labels(site.run, "train", attempt)
    template = pods.template(_train_work(site, name, attempt, nodes, avoided), tags, _train_notes(site))
    return kueue.queued(objects.group_job(metadata(site, name, "train", attempt), template, nodes), spec)


def _train_notes(site: Site) -> dict[str, str]:
    return {
        pods.OWNER_ANNOTATION: site.run.name,
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(PROGRESS_PORT),
    }


def _train_work(site: Site, name: str, attempt: int, nodes: int, avoided: Sequence[str]) -> pods.Work:
    spec, profile = site.run.spec, site.run.accelerator
    return pods.Work(
        image=site.image,
        command=("python3", "-m", "anneal_trainers", "train"),
        config_map=site.config_map,
        config_key=plan.RUN_KEY,
        claims=claims(spec),
        secrets=secrets(spec, spec.telemetry.secret_ref),
        profile=profile,
        requests=REQUESTS["train"],
        accelerators=spec.workers.accelerators_per_node,
        env={
            **FLIGHT_RECORDER,
            ENV_ATTEMPT: str(attempt),
            ENV_NODES: str(nodes),
            ENV_GRACE: str(TRAIN_GRACE),
            ENV_RENDEZVOUS: f"{name}-0.{service_name(site)}:{RENDEZVOUS_PORT}",
        },
        ports={"metrics": PROGRESS_PORT},
        service_account=spec.service_account_name,
        grace_seconds=TRAIN_GRACE,
        pod=_group_placement(site, attempt, avoided),
    )


def _group_placement(site: Site, attempt: int, avoided: Sequence[str]) -> Object:
    spec = site.run.spec
    term = {
        "topologyKey": HOSTNAME_LABEL,
        # The Job's own label: the group of an earlier attempt, or of a deleted namesake, may still be ending.
        "labelSelector": {"matchLabels": {JOB_NAME_LABEL: train_name(site, attempt)}},
    }
    affinity: Object = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    if avoided:
        affinity["nodeAffinity"] = _away_from(avoided)
    fields: Object = {
        "subdomain": service_name(site),
        "tolerations": pods.lost_node_tolerations(site.run.accelerator),
        "affinity": affinity,
    }
    if spec.priority_class_name:
        fields["priorityClassName"] = spec.priority_class_name
    return fields


def _away_from(avoided: Sequence[str]) -> Object:
    away = {"key": HOSTNAME_LABEL, "operator": "NotIn", "values": list(avoided)}
    terms = [{"matchExpressions": [away]}]
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}


def fixed_part(spec: FineTuneJobSpec) -> Object:
    """Return what a planned run can no longer change; the rest acts on a run in flight."""
    fields = wire(spec)
    for name in ("suspend", "ttlSecondsAfterFinished", "activeDeadlineSeconds"):
        fields.pop(name, None)
    for name in ("maxRestarts", "restartWindow"):
        fields["faultPolicy"].pop(name, None)
    fields["output"].pop("deletionPolicy")
    return fields


def changed_fields(planned: FineTuneJobSpec, wanted: FineTuneJobSpec) -> list[str]:
    """Return the top-level fields that differ from the plan and cannot change any more."""
    if planned == wanted:
        return []
    old, new = fixed_part(planned), fixed_part(wanted)
    return sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
