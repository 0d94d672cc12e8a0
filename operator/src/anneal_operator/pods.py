"""The one pod template: restricted Pod Security, read-only root, no token; builders fill in the rest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anneal_api.base import GROUP
from anneal_api.profiles import AcceleratorProfile
from anneal_api.runs import ENV_JUDGES, ENV_POD_UID, JUDGES_FOLDER, RUN_PATH, VOLUME_ROOT
from anneal_operator.decision import Object

USER = 65532
CONFIG_FOLDER = RUN_PATH.rsplit("/", 1)[0]
OWNER_ANNOTATION = f"{GROUP}/owner"
"""Full name of the resource a pod works for; a label may have to be shortened."""
TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"
JUDGE_REQUESTS = {"cpu": "100m", "memory": "256Mi"}
JUDGE_LIMITS = {"memory": "6Gi"}
"""By the sandbox's own limits two programs and their tests take 4 GiB, as two compilers do; the rest is the judge's."""
JUDGE_SCRATCH = "1Gi"
"""Of folders that the sandbox keeps to 64 MiB a program, and of what Go's standard library is compiled in."""
TOLERATED_LOSS = 10
"""Seconds a pod of a lost node is waited for."""


@dataclass(frozen=True)
class Work:
    """What differs between pods; everything else is the same for all."""

    image: str
    command: Sequence[str]
    config_map: str
    config_key: str
    claims: Mapping[str, bool]
    """Claim to whether it is mounted read-only."""
    secrets: Sequence[str]
    """Secrets whose entries become environment variables."""
    profile: AcceleratorProfile
    requests: Mapping[str, str]
    accelerators: int = 0
    mounted_secrets: Mapping[str, str] = field(default_factory=dict)
    """Secret to the folder its entries are files of: a changed Secret reaches a running pod."""
    env: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    service_account: str | None = None
    judges: Mapping[str, str] = field(default_factory=dict)
    """Language to the image of the container that judges its programs, apart from what this pod may reach."""
    api_token: bool = False
    grace_seconds: int = 30
    container: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the container: probes, lifecycle."""
    pod: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the pod: restart policy, affinity, subdomain."""


def template(work: Work, labels: Mapping[str, str], annotations: Mapping[str, str]) -> Object:
    """Return a pod template."""
    token = work.api_token or work.service_account is not None
    spec = {
        "automountServiceAccountToken": token,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": work.grace_seconds,
        "securityContext": pod_security(),
        **({"initContainers": [_judge(*each) for each in work.judges.items()]} if work.judges else {}),
        "containers": [_container(work)],
        "volumes": [*_volumes(work), *_judges_volumes(work)],
        **_placement(work.profile),
        **({"serviceAccountName": work.service_account} if work.service_account else {}),
        **work.pod,
    }
    return {"metadata": {"labels": dict(labels), "annotations": dict(annotations)}, "spec": spec}


def pod_security() -> Object:
    """Return the restricted profile's pod half."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security(added: Sequence[str] = ()) -> Object:
    """Return the restricted profile's container half; `added` capabilities are the administrator's exception."""
    capabilities = {"drop": ["ALL"], **({"add": list(added)} if added else {})}
    return {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": capabilities}


def _container(work: Work) -> Object:
    overlay = work.profile.overlay
    judges = {ENV_JUDGES: ",".join(work.judges)} if work.judges else {}
    values = {"HOME": "/tmp", "TMPDIR": "/tmp", **overlay.env, **judges, **work.env}
    env: list[Object] = [{"name": name, "value": value} for name, value in values.items()]
    env.append({"name": ENV_POD_UID, "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}})
    return {
        "name": "main",
        "image": work.image,
        "command": list(work.command),
        "workingDir": "/work",
        "env": env,
        "envFrom": [{"secretRef": {"name": name}} for name in work.secrets],
        "ports": [{"name": name, "containerPort": port} for name, port in work.ports.items()],
        "resources": _resources(work),
        "securityContext": container_security(overlay.capabilities),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": _mounts(work),
        **work.container,
    }


def _judge(language: str, image: str) -> Object:
    """Return a judge: it starts before the work and ends with it, and has no Secret, claim, plan or token."""
    own = _own_scratch(language)
    return {
        "name": f"judge-{language}",
        "image": image,
        "command": ["python3", "-m", "anneal_evaluation.judging", language, f"{JUDGES_FOLDER}/{language}"],
        "workingDir": "/tmp",
        "restartPolicy": "Always",
        "env": [{"name": name, "value": "/tmp"} for name in ("HOME", "TMPDIR")],
        "resources": {"requests": JUDGE_REQUESTS, "limits": JUDGE_LIMITS},
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "judges", "mountPath": JUDGES_FOLDER},
            {"name": own, "mountPath": "/tmp"},
            # Where something is mounted the API server mounts no token, which the work may have for its store.
            {"name": own, "mountPath": TOKEN_FOLDER, "readOnly": True},
        ],
    }


def _own_scratch(language: str) -> str:
    return f"judge-{language}"


def _judges_volumes(work: Work) -> list[Object]:
    names = [_own_scratch(language) for language in work.judges]
    bounded = {"sizeLimit": JUDGE_SCRATCH}
    return [{"name": name, "emptyDir": bounded} for name in (["judges", *names] if names else [])]


def _resources(work: Work) -> Object:
    extended = work.profile.resource_name
    cards = {extended: str(work.accelerators)} if extended and work.accelerators else {}
    overlay = work.profile.overlay if work.accelerators else None
    requests = {**work.requests, **(overlay.requests if overlay else {}), **cards}
    limits = {**(overlay.limits if overlay else {}), **cards}
    return {"requests": requests, **({"limits": limits} if limits else {})}


def _placement(profile: AcceleratorProfile) -> Object:
    secrets = profile.overlay.image_pull_secrets
    fields: Object = {
        "nodeSelector": dict(profile.node_selector),
        "tolerations": list(profile.tolerations),
        "imagePullSecrets": [{"name": name} for name in secrets],
    }
    return {name: value for name, value in fields.items() if value}


def lost_node_tolerations(profile: AcceleratorProfile) -> list[Object]:
    """Return the profile's tolerations, and short ones for a node that went away."""
    taints = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
    short = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATED_LOSS}
        for key in taints
    ]
    return [*profile.tolerations, *short]


def _mounts(work: Work) -> list[Object]:
    fixed: list[Object] = [
        {"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "work", "mountPath": "/work"},
    ]
    claims = [
        {"name": f"claim-{n}", "mountPath": f"{VOLUME_ROOT}/{claim}", "readOnly": readonly}
        for n, (claim, readonly) in enumerate(work.claims.items())
    ]
    secrets = [
        {"name": f"secret-{n}", "mountPath": folder, "readOnly": True}
        for n, folder in enumerate(work.mounted_secrets.values())
    ]
    shared = [{"name": "shm", "mountPath": "/dev/shm"}] if _shared_memory(work) else []
    shared += [{"name": "judges", "mountPath": JUDGES_FOLDER}] if work.judges else []
    return [*fixed, *claims, *secrets, *shared]


def _volumes(work: Work) -> list[Object]:
    item = {"key": work.config_key, "path": work.config_key}
    fixed: list[Object] = [
        {"name": "config", "configMap": {"name": work.config_map, "items": [item]}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "work", "emptyDir": {}},
    ]
    claims = [
        {"name": f"claim-{n}", "persistentVolumeClaim": {"claimName": claim}}
        for n, claim in enumerate(work.claims)
    ]
    secrets = [
        {"name": f"secret-{n}", "secret": {"secretName": name, "defaultMode": 0o440}}
        for n, name in enumerate(work.mounted_secrets)
    ]
    memory = _shared_memory(work)
    shared = [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": memory}}] if memory else []
    return [*fixed, *claims, *secrets, *shared]


def _shared_memory(work: Work) -> str | None:
    return work.profile.overlay.shared_memory if work.accelerators else None
