"""Builders of the objects around a pod template: Jobs, ConfigMaps, Services."""

from collections.abc import Mapping
from typing import Any

from anneal_api.outcome import EXIT_CONFIG
from anneal_operator.decision import Object

STAGE_TRIES = 3


def meta(
    name: str,
    namespace: str,
    owner: Object,
    labels: Mapping[str, str],
    annotations: Mapping[str, str] | None = None,
) -> Object:
    """Return the metadata of a child."""
    fields: Object = {
        "name": name,
        "namespace": namespace,
        "labels": dict(labels),
        "ownerReferences": [owner],
    }
    return {**fields, "annotations": dict(annotations)} if annotations else fields


def config_map(metadata: Object, data: Mapping[str, str], *, immutable: bool) -> Object:
    """Return a ConfigMap."""
    fields: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(data)}
    return {**fields, "immutable": True} if immutable else fields


def stage_job(metadata: Object, template: Object) -> Object:
    """Return a one-pod Job: three tries, none after exit 64, and a lost node is not held against it."""
    return job(metadata, template, backoffLimit=STAGE_TRIES - 1, podFailurePolicy=_STAGE_FAILURES)


def shards_job(metadata: Object, template: Object, count: int) -> Object:
    """Return an Indexed Job of `count` pods that know nothing of each other: each is tried as that of a stage."""
    return job(
        metadata,
        template,
        completionMode="Indexed",
        completions=count,
        parallelism=count,
        backoffLimitPerIndex=STAGE_TRIES - 1,
        maxFailedIndexes=0,
        podFailurePolicy=_STAGE_FAILURES,
    )


def group_job(metadata: Object, template: Object, nodes: int) -> Object:
    """Return an Indexed Job that fails as a whole with its first pod."""
    return job(
        metadata,
        template,
        completionMode="Indexed",
        completions=nodes,
        parallelism=nodes,
        backoffLimit=0,
        podFailurePolicy={"rules": [_on_disruption("FailJob"), _fail_on("NotIn", 0)]},
    )


def job(metadata: Object, template: Object, **fields: Any) -> Object:
    """Return a Job whose pods are never restarted in place, so that every end is seen."""
    spec = {**template["spec"], "restartPolicy": "Never"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {**fields, "template": {**template, "spec": spec}},
    }


def _fail_on(operator: str, code: int) -> Object:
    codes = {"containerName": "main", "operator": operator, "values": [code]}
    return {"action": "FailJob", "onExitCodes": codes}


def _on_disruption(action: str) -> Object:
    return {"action": action, "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


_STAGE_FAILURES = {"rules": [_fail_on("In", EXIT_CONFIG), _on_disruption("Ignore")]}


def headless_service(
    metadata: Object, selector: Mapping[str, str], ports: Mapping[str, int], *, not_ready: bool
) -> Object:
    """Return a Service that only names its pods; `not_ready` publishes them before they are ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": not_ready,
            "selector": dict(selector),
            "ports": [{"name": n, "port": p, "targetPort": p, "protocol": "TCP"} for n, p in ports.items()],
        },
    }


def covers(live: object, wanted: object) -> bool:
    """Return whether `live` has everything `wanted` says; the API server may have added defaults."""
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(_has(live, name, value) for name, value in wanted.items())
    if isinstance(wanted, list):
        return (
            isinstance(live, list)
            and len(live) == len(wanted)
            and all(covers(a, b) for a, b in zip(live, wanted, strict=True))
        )
    return live == wanted


def _has(live: Object, name: str, value: object) -> bool:
    """Compare one field; the API server leaves out what is false or empty."""
    return (name not in live and not value) or covers(live.get(name), value)
