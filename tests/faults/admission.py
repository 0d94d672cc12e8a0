"""What the API server makes of an object before it stores it: defaults, and refusals (422), by kind."""

import re
from collections.abc import Callable
from typing import Any

import structural
from managed_fields import Shape

from anneal_api.base import API_VERSION
from anneal_operator.cluster.errors import ApiError

Object = dict[str, Any]
CUSTOM = {"FineTuneJob": "finetunejobs", "ModelDeployment": "modeldeployments"}
WITH_STATUS = frozenset({*CUSTOM, "Job", "Deployment", "Pod", "Service"})
COUNTED = frozenset({*CUSTOM, "Job", "Deployment"})
"""Kinds whose metadata.generation follows the spec."""
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
LEFT_OUT = ("publishNotReadyAddresses", "readOnly", "env", "nodeSelector", "tolerations", "imagePullSecrets")
"""Fields the server does not keep when they are false or empty."""
POD = ("f:spec", "f:template", "f:spec")
OWNERS = ("f:metadata", "f:ownerReferences")

DIRECTIVES = ("nodeSelector", "affinity", "tolerations", "schedulingGates")

SHAPES = {
    "FineTuneJob": Shape({OWNERS: ("uid",), ("f:spec", "f:tasks"): ("name",), ("f:status", "f:conditions"): ("type",)}),
    "ModelDeployment": Shape({OWNERS: ("uid",), ("f:status", "f:conditions"): ("type",)}),
    "Service": Shape(
        {OWNERS: ("uid",), ("f:spec", "f:ports"): ("port", "protocol")}, whole=frozenset({("f:spec", "f:selector")})
    ),
    "Deployment": Shape(
        {
            OWNERS: ("uid",),
            (*POD, "f:containers"): ("name",),
            (*POD, "f:volumes"): ("name",),
            (*POD, "f:containers", "f:env"): ("name",),
            (*POD, "f:containers", "f:ports"): ("containerPort", "protocol"),
            (*POD, "f:containers", "f:volumeMounts"): ("mountPath",),
            (*POD, "f:imagePullSecrets"): ("name",),
        },
        whole=frozenset({("f:spec", "f:selector"), (*POD, "f:nodeSelector")}),
    ),
}  # fmt: skip
PLAIN = Shape({OWNERS: ("uid",)})


def shape(kind: str) -> Shape:
    """Return how a kind's fields merge."""
    return SHAPES.get(kind, PLAIN)


def invalid(text: str) -> ApiError:
    """Return the answer to an object that cannot be."""
    return ApiError(422, "Invalid", text)


def admit(obj: Object, old: Object | None) -> Object:
    """Return the object as it is stored; raises 422."""
    _check_metadata(obj)
    meta = {name: value for name, value in obj["metadata"].items() if value not in ([], {}, None)}
    obj, kind = {**obj, "metadata": meta}, obj["kind"]
    if kind in CUSTOM:
        return _custom(obj, structural.schema(CUSTOM[kind]))
    made = _without_empty(obj)
    if kind in DEFAULTS:
        made["spec"] = DEFAULTS[kind](made["spec"])
    if old is not None:
        _check_fixed(kind, old, made)
    return made


def _check_metadata(obj: Object) -> None:
    meta = obj["metadata"]
    if len(meta["name"]) > 253 or not NAME.fullmatch(meta["name"]):
        raise invalid(f"metadata.name: {meta['name']!r}")
    for name, value in (meta.get("labels") or {}).items():
        if len(value) > 63 or not LABEL.fullmatch(value):
            raise invalid(f"metadata.labels: {name}: {value!r}")


def _custom(obj: Object, rules: structural.Schema) -> Object:
    if obj.get("apiVersion") != API_VERSION:
        raise ApiError(400, "BadRequest", f"{obj.get('apiVersion')} is not served")
    own = {name: obj[name] for name in ("spec", "status") if name in obj}
    made = structural.defaulted(structural.pruned(own, rules), rules)
    wrong = [*structural.errors(made, rules)]
    if wrong:
        raise invalid("; ".join(wrong))
    return {**{name: obj[name] for name in ("apiVersion", "kind", "metadata")}, **made}


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        return {n: _without_empty(v) for n, v in value.items() if v or n not in LEFT_OUT}
    return [_without_empty(v) for v in value] if isinstance(value, list) else value


def _check_fixed(kind: str, old: Object, new: Object) -> None:
    if old.get("immutable") and (not new.get("immutable") or new.get("data") != old.get("data")):
        raise invalid("data: Forbidden: field is immutable when `immutable` is set")
    if kind == "Job" and _fixed_template(old, old) != _fixed_template(new, old):
        raise invalid("spec.template: field is immutable")
    if kind in ("Deployment",) and new["spec"].get("selector") != old["spec"].get("selector"):
        raise invalid("spec.selector: field is immutable")
    if kind == "Service" and new["spec"].get("clusterIP") != old["spec"].get("clusterIP"):
        raise invalid("spec.clusterIP: field is immutable")


def _fixed_template(job: Object, old: Object) -> Object:
    """Return what of a Job's template cannot change: a Job that is held back and has not begun may be told where to
    run (KEP-2926)."""
    template: Object = job["spec"].get("template") or {}
    if not old["spec"].get("suspend") or old.get("status", {}).get("startTime"):
        return template
    return {"spec": {n: v for n, v in template.get("spec", {}).items() if n not in DIRECTIVES}}


def _pod_spec(spec: Object, restart: str) -> Object:
    containers = [
        {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File", **container}
        for container in spec.get("containers", [])
    ]
    common = {"restartPolicy": restart, "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler"}
    return {**common, "terminationGracePeriodSeconds": 30, **spec, "containers": containers}


def _job(spec: Object) -> Object:
    common = {
        "parallelism": 1,
        "completions": 1,
        "backoffLimit": 6,
        "completionMode": "NonIndexed",
        "suspend": False,
    }
    template = spec["template"]
    return {**common, **spec, "template": {**template, "spec": _pod_spec(template["spec"], "Never")}}


def _deployment(spec: Object) -> Object:
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}}
    common = {"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600, "strategy": rolling}
    template = spec["template"]
    return {**common, **spec, "template": {**template, "spec": _pod_spec(template["spec"], "Always")}}


def _service(spec: Object) -> Object:
    ports = [{"protocol": "TCP", "targetPort": port["port"], **port} for port in spec.get("ports", [])]
    common = {"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster"}
    return {**common, "clusterIP": "10.96.0.1", **spec, "ports": ports}


DEFAULTS: dict[str, Callable[[Object], Object]] = {
    "Job": _job,
    "Deployment": _deployment,
    "Service": _service,
}
