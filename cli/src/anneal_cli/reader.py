"""The pod that reads a store: no machine of a user's can mount a claim, and the store's keys stay in the cluster.

It is built as the operator builds its own, restricted and without a token, from a plan that already says image, Secrets
and service account. It belongs to nobody, so that the operator does not take it for a stage.
"""

from collections.abc import Sequence

from anneal_api.base import LABEL_DEPLOYMENT, LABEL_JOB, LABEL_STAGE
from anneal_api.profiles import AcceleratorProfile, Images, PodOverlay
from anneal_api.runs import DeploymentRun, FineTuneRun, runs_folder
from anneal_cli.kubectl import Kubectl, Object
from anneal_operator import naming, plan, pods, uris
from anneal_operator.finetunejob import resources as finetunejob
from anneal_operator.modeldeployment import resources as modeldeployment
from anneal_runtime.errors import Refused

REQUESTS = {"cpu": "100m", "memory": "256Mi"}
DEADLINE = 900
"""Seconds after which the pod ends, should nobody be left to remove it."""
LABELS = {"app.kubernetes.io/name": "anneal", "app.kubernetes.io/component": "reader"}


def plan_of(kubectl: Kubectl, resource: Object) -> Object:
    """Return the ConfigMap with a resource's newest plan.

    Raises:
        Refused: it is not planned yet.
    """
    meta = resource["metadata"]
    label = LABEL_JOB if resource["kind"] == "FineTuneJob" else LABEL_DEPLOYMENT
    selector = f"{label}={naming.label_value(meta['name'])},{LABEL_STAGE}=plan"
    found = [
        each for each in kubectl.select("configmaps", "--selector", selector) if _owned(each, meta["uid"])
    ]
    if not found:
        raise Refused(
            "NotPlanned",
            f"{meta['name']} has no plan yet; `anneal why {meta['name']}` says what it waits for",
        )
    return max(found, key=lambda each: str(each["metadata"]["creationTimestamp"]))


def _owned(config_map: Object, uid: str) -> bool:
    return any(owner["uid"] == uid for owner in config_map["metadata"].get("ownerReferences", []))


def run_of(config_map: Object) -> FineTuneRun | DeploymentRun:
    """Return the run that a plan's ConfigMap holds."""
    text = config_map["data"][plan.RUN_KEY]
    kind = config_map["metadata"]["ownerReferences"][0]["kind"]
    return (FineTuneRun if kind == "FineTuneJob" else DeploymentRun).model_validate_json(text)


def home_of(run: FineTuneRun | DeploymentRun) -> str:
    """Return the folder of a run's store that holds everything of its namespace."""
    store = run.spec.output.uri if isinstance(run, FineTuneRun) else run.store
    return f"{store.rstrip('/')}/{run.namespace}"


def steps(config_map: Object) -> Object:
    """Return the pod that tells a run's steps."""
    run = run_of(config_map)
    if not isinstance(run, FineTuneRun):
        raise Refused("NotTrained", f"{run.name} is a ModelDeployment; name a FineTuneJob")
    return pod(config_map, run, ["ledger", runs_folder(run)], writes=False)


def samples(config_map: Object, dataset: str) -> Object:
    """Return the pod that tells the rows that the report of a run's data set shows."""
    return pod(config_map, run_of(config_map), ["samples", dataset], writes=False)


def artifacts(config_map: Object) -> Object:
    """Return the pod that tells what lies in the store of a run."""
    run = run_of(config_map)
    return pod(config_map, run, ["artifacts", home_of(run)], writes=False)


def removal(config_map: Object, doomed: Sequence[str]) -> Object:
    """Return the pod that removes folders of the store of a run."""
    run = run_of(config_map)
    return pod(config_map, run, ["remove", home_of(run), *doomed], writes=True)


def pod(
    config_map: Object, run: FineTuneRun | DeploymentRun, command: Sequence[str], *, writes: bool
) -> Object:
    """Return a pod that runs `browse` beside the store of `run`."""
    home = home_of(run)
    secrets = (
        finetunejob.secrets(run.spec) if isinstance(run, FineTuneRun) else modeldeployment.secrets(run.spec)
    )
    account = run.spec.service_account_name if isinstance(run, FineTuneRun) else None
    pull = PodOverlay(image_pull_secrets=run.accelerator.overlay.image_pull_secrets)
    work = pods.Work(
        image=Images.model_validate_json(config_map["data"][plan.IMAGES_KEY]).trainers,
        command=("python3", "-m", "anneal_trainers", "browse", *command),
        config_map=config_map["metadata"]["name"],
        config_key=plan.RUN_KEY,
        claims=uris.claims([], [home]) if writes else uris.claims([home], []),
        secrets=secrets,
        profile=AcceleratorProfile(name="plain", memory_gib=1, overlay=pull),
        requests=REQUESTS,
        service_account=account,
        pod={"restartPolicy": "Never", "activeDeadlineSeconds": DEADLINE},
    )
    template = pods.template(work, LABELS, {pods.OWNER_ANNOTATION: run.name})
    metadata = {**template["metadata"], "generateName": "anneal-reader-"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
