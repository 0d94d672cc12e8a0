"""What an artifact was made from, back to data and base model, by the digests in the manifests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.tree import Tree

from anneal_api.artifacts import Manifest
from anneal_api.finetunejob import FineTuneJobStatus
from anneal_api.modeldeployment import ModelDeploymentStatus
from anneal_cli.kubectl import Object


@dataclass(frozen=True)
class Artifact:
    """An artifact as a store tells it."""

    uri: str
    digest: str
    bytes: int
    manifest: Manifest


@dataclass(frozen=True)
class Node:
    """One input of what stands above it; `made` is None for what no manifest in the store describes: a source."""

    role: str
    digest: str
    made: Artifact | None = None
    inputs: list["Node"] = field(default_factory=list)


def read(lines: Sequence[Object]) -> list[Artifact]:
    """Return the artifacts among what a store told."""
    return [
        Artifact(line["uri"], line["digest"], line["bytes"], Manifest.model_validate(line["manifest"]))
        for line in lines
        if "manifest" in line
    ]


def roots(resource: Object) -> dict[str, str]:
    """Return the digests that a resource stands for, by what they are to it."""
    if resource["kind"] == "ModelDeployment":
        status = ModelDeploymentStatus.model_validate(resource.get("status", {}))
        serving = [version for version in status.versions if version.stage == "Serving"]
        return {
            f"{role} of {v.run}": d
            for v in serving
            for role, d in (("engine", v.engine), ("model", v.digest))
            if d
        }
    made = FineTuneJobStatus.model_validate(resource.get("status", {})).artifacts
    return {role: ref.digest for role, ref in (("merged", made.merged), ("adapter", made.adapter)) if ref}


def walk(role: str, digest: str, known: Mapping[str, Artifact]) -> Node:
    """Return the tree of inputs below a digest; digests are of contents, so there is no circle."""
    found = known.get(digest)
    if found is None:
        return Node(role, digest)
    inputs = [walk(name, each, known) for name, each in sorted(found.manifest.inputs.items())]
    return Node(role, digest, found, inputs)


def lineage(resource: Object, artifacts: Sequence[Artifact]) -> list[Node]:
    """Return a tree for everything that the resource stands for."""
    known = {artifact.digest: artifact for artifact in artifacts}
    return [walk(role, digest, known) for role, digest in roots(resource).items()]


def render(node: Node, tree: Tree | None = None) -> Tree:
    """Return the tree as a person reads it."""
    label = f"{node.role}  {node.digest[:19]}"
    if node.made:
        producer = node.made.manifest.producer
        label += f"  {node.made.uri}  by {producer.kind} {producer.name}".rstrip()
    branch = tree.add(label, highlight=False) if tree else Tree(label, highlight=False)
    for each in node.inputs:
        render(each, branch)
    return branch


def data(node: Node) -> Object:
    """Return the tree as data."""
    made = node.made and {"uri": node.made.uri, "kind": node.made.manifest.kind, "bytes": node.made.bytes}
    producer = node.made.manifest.producer.model_dump() if node.made else None
    inputs = [data(each) for each in node.inputs]
    return {
        "role": node.role,
        "digest": node.digest,
        "artifact": made,
        "producer": producer,
        "inputs": inputs,
    }
