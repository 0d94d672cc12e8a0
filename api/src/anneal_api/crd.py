"""CRDs from the resource types: structural OpenAPI v3 schemas with defaults, bounds and CEL rules.

Format: apiextensions.k8s.io/v1. JSON Schema as pydantic writes it differs from what the API server
accepts in references, null types, numeric exclusive bounds and additionalProperties.
"""

from dataclasses import dataclass
from typing import Any

from anneal_api.base import GROUP, VERSION, Model
from anneal_api.finetunejob import FineTuneJobSpec, FineTuneJobStatus
from anneal_api.modeldeployment import ModelDeploymentSpec, ModelDeploymentStatus

Json = dict[str, Any]
_DROPPED = ("title", "$defs")


@dataclass(frozen=True)
class Resource:
    """What a CRD needs besides the types of spec and status."""

    kind: str
    short: str
    purpose: str
    spec: type[Model]
    status: type[Model]
    columns: tuple[tuple[str, str, str, int], ...]
    """Name, JSON path, type, priority (1 shows with -o wide)."""
    scale: Json | None = None

    @property
    def plural(self) -> str:
        """The resource's name in URLs."""
        return self.kind.lower() + "s"


def _condition(kind: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'


FINETUNEJOB = Resource(
    kind="FineTuneJob",
    short="ftj",
    purpose="Distributed, multi-task QLoRA fine-tuning of one base model.",
    spec=FineTuneJobSpec,
    status=FineTuneJobStatus,
    columns=(
        ("Phase", ".status.phase", "string", 0),
        ("Progress", ".status.progress.percent", "integer", 0),
        ("Step", ".status.progress.step", "integer", 0),
        ("Loss", ".status.progress.loss", "string", 0),
        ("Nodes", ".status.nodes", "integer", 0),
        ("Restarts", ".status.restarts", "integer", 0),
        ("Age", ".metadata.creationTimestamp", "date", 0),
        ("Left", ".status.progress.timeLeftSeconds", "integer", 1),
        ("Queue", ".spec.queueName", "string", 1),
        ("Base", ".spec.baseModel.uri", "string", 1),
        ("Checkpoint", ".status.checkpoints.latest", "integer", 1),
        ("Reason", _condition("Complete", "reason"), "string", 1),
    ),
)
MODELDEPLOYMENT = Resource(
    kind="ModelDeployment",
    short="mdep",
    purpose="A model compiled to INT4, gated on accuracy, served behind an OpenAI-compatible endpoint.",
    spec=ModelDeploymentSpec,
    status=ModelDeploymentStatus,
    columns=(
        ("Ready", _condition("Ready", "status"), "string", 0),
        ("Reason", _condition("Ready", "reason"), "string", 0),
        ("Stage", ".status.phase", "string", 0),
        ("Replicas", ".status.readyReplicas", "integer", 0),
        ("Version", ".status.versions[0].run", "string", 0),
        ("URL", ".status.url", "string", 0),
        ("Age", ".metadata.creationTimestamp", "date", 0),
        ("GPU", ".spec.accelerator", "string", 1),
        ("Digest", ".status.versions[0].digest", "string", 1),
    ),
    scale={
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    },
)
RESOURCES = (FINETUNEJOB, MODELDEPLOYMENT)


def crd(resource: Resource) -> Json:
    """Return the CustomResourceDefinition of `resource`."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": resource.kind,
                "listKind": resource.kind + "List",
                "plural": resource.plural,
                "singular": resource.kind.lower(),
                "shortNames": [resource.short],
                "categories": ["anneal"],
            },
            "versions": [_version(resource)],
        },
    }


def _version(resource: Resource) -> Json:
    scale = {"scale": resource.scale} if resource.scale else {}
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}, **scale},
        "additionalPrinterColumns": [
            {"name": name, "jsonPath": path, "type": kind, "priority": priority}
            for name, path, kind, priority in resource.columns
        ],
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "description": resource.purpose,
                "required": ["spec"],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": {"type": "object"},
                    "spec": structural(resource.spec, defaults=True),
                    "status": structural(resource.status, defaults=False),
                },
            }
        },
    }


def structural(model: type[Model], *, defaults: bool) -> Json:
    """Return the structural schema of `model`; without `defaults` for status, which the operator writes whole."""
    schema = model.model_json_schema(by_alias=True)
    rules = {m.__name__: m for m in _models(Model)}
    return dict(_convert(schema, schema.get("$defs", {}), rules, defaults, model.__name__))


def _models(base: type[Model]) -> list[type[Model]]:
    return [base, *(m for child in base.__subclasses__() for m in _models(child))]


def _convert(node: Any, defs: Json, models: dict[str, type[Model]], defaults: bool, name: str = "") -> Any:
    if isinstance(node, list):
        return [_convert(item, defs, models, defaults) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[1]
        node = {**defs[name], **{k: v for k, v in node.items() if k != "$ref"}}
    if "anyOf" in node:
        return _convert(_without_null(node), defs, models, defaults)
    plain = {k: v for k, v in node.items() if k not in _DROPPED and (k != "default" or defaults)}
    rules = getattr(models.get(name), "rules", None)
    converted = {k: _value(k, v, defs, models, defaults) for k, v in _bounds(plain).items()}
    if rules:
        converted["x-kubernetes-validations"] = [{"rule": r, "message": m} for r, m in rules]
    return converted


def _value(key: str, value: Any, defs: Json, models: dict[str, type[Model]], defaults: bool) -> Any:
    if key == "default":
        return _without_nulls(value)
    if key == "properties":
        return {name: _convert(node, defs, models, defaults) for name, node in value.items()}
    return _convert(value, defs, models, defaults)


def _without_nulls(value: Any) -> Any:
    """A default must be valid by itself, and there is no null on the wire."""
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return value


def _without_null(node: Json) -> Json:
    """`X or None` is X, not required: the API server knows absence, and pydantic says it with null."""
    chosen = next(option for option in node["anyOf"] if option != {"type": "null"})
    rest = {k: v for k, v in node.items() if k != "anyOf" and not (k == "default" and v is None)}
    return {**chosen, **rest}


def _bounds(node: Json) -> Json:
    """Turn numeric exclusive bounds and const into what OpenAPI v3.0 has, and drop closed objects."""
    result = dict(node)
    for exclusive, plain in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if exclusive in result:
            result[plain], result[exclusive] = result[exclusive], True
    if "const" in result:
        result["enum"] = [result.pop("const")]
    if result.get("additionalProperties") in (False, True):
        del result["additionalProperties"]
        if "properties" not in result:
            result["x-kubernetes-preserve-unknown-fields"] = True
    return result
