"""Volumes on demand: Rancher's local-path provisioner over a folder that all nodes share.

All nodes are on one disk, so a ReadWriteMany claim works as on a network file system. The provisioner is a process of
this machine; it makes and removes each folder through a short helper pod, whose image is the images' own base.
"""

import json
import pathlib

from cluster import certificates, processes, settings, tools

NAMESPACE = "local-path-storage"
CLASS = "anneal-shared"
PROVISIONER = "rancher.io/local-path"
ACCOUNT = "local-path-provisioner-service-account"
# World-writable, because pods run as an unprivileged user and hostPath volumes know no fsGroup.
SETUP = '#!/bin/sh\nset -eu\nmkdir -m 0777 -p "$VOL_DIR"\n'
TEARDOWN = '#!/bin/sh\nset -eu\nrm -rf "$VOL_DIR"\n'


def helper_pod(image: str) -> dict[str, object]:
    """Runs on the serving pool: tests of faults take training nodes away."""
    container = {"name": "helper", "image": image, "securityContext": {"runAsUser": 0}}
    spec = {
        "nodeSelector": {"anneal.dev/pool": "serving"},
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "helper-pod"}, "spec": spec}


def objects(image: str) -> list[dict[str, object]]:
    """What the provisioner reads, its rights, and the default storage class."""
    data = {
        "config.json": json.dumps({"sharedFileSystemPath": str(settings.VOLUMES)}),
        "setup": SETUP,
        "teardown": TEARDOWN,
        "helperPod.yaml": json.dumps(helper_pod(image)),
    }
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    named = {"name": "anneal-local-path", "namespace": NAMESPACE}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {**named, "name": "local-path-config"},
            "data": data,
        },
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": CLASS, "annotations": default},
            "provisioner": PROVISIONER,
            "reclaimPolicy": "Delete",
            "volumeBindingMode": "Immediate",
        },
    ]


def start(image: str) -> None:
    """Apply the objects and start the provisioner, whose user is an administrator for simplicity's sake."""
    if processes.alive("local-path-provisioner"):
        return
    settings.VOLUMES.mkdir(parents=True, exist_ok=True)
    tools.kubectl(
        "apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects(image)})
    )
    processes.start(
        "local-path-provisioner",
        *(tools.binary("local-path-provisioner"), "start"),
        *("--kubeconfig", certificates.kubeconfig("local-path", "anneal-local-path", "system:masters")),
        *("--config", configuration(), "--provisioner-name", PROVISIONER, "--namespace", NAMESPACE),
        *(
            "--configmap-name",
            "local-path-config",
            "--service-account-name",
            ACCOUNT,
            "--helper-image",
            image,
        ),
        *("--helper-pod-file", helper_file(image)),
    )


def configuration() -> pathlib.Path:
    """The provisioner also wants its configuration as a file."""
    path = settings.STATE / "local-path.json"
    path.write_text(json.dumps({"sharedFileSystemPath": str(settings.VOLUMES)}))
    return path


def helper_file(image: str) -> pathlib.Path:
    """And its pod."""
    path = settings.STATE / "local-path-helper.yaml"
    path.write_text(json.dumps(helper_pod(image)))
    return path
