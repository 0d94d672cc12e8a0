"""Writes what is generated from the types: CRDs (for kubectl and for the chart), the API reference, and the chart's version.

`python -m anneal_api.generate` writes, with `--check` it compares and names what differs.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from anneal_api.base import API_VERSION
from anneal_api.crd import RESOURCES, Resource, crd
from anneal_api.version import VERSION

CRD_FOLDERS = ("manifests/crds", "charts/anneal/files/crds")
REFERENCE = "docs/reference/api.md"
CHART = "charts/anneal/Chart.yaml"


def files() -> dict[str, str]:
    """Return every generated file's path, relative to the repository, and its text."""
    crds = {f"{r.plural}.yaml": _yaml(crd(r)) for r in RESOURCES}
    generated = {f"{folder}/{name}": text for folder in CRD_FOLDERS for name, text in crds.items()}
    return {**generated, REFERENCE: reference(), CHART: _yaml(chart())}


def chart() -> dict[str, str]:
    """Return what Helm is to know of the chart; it and the application it installs are of one version."""
    return {
        "apiVersion": "v2",
        "name": "anneal",
        "description": "Fine-tunes code models on a training pool and serves them as INT4 on a serving pool.",
        "type": "application",
        "version": VERSION,
        "appVersion": VERSION,
        "kubeVersion": ">=1.30.0-0",
    }


def reference() -> str:
    """Return the API reference as Markdown: one table a resource and part, a row a field."""
    head = f"# API reference\n\n`{API_VERSION}`; generated from the types in `api/`.\n"
    return head + "".join(_section(resource) for resource in RESOURCES)


def _section(resource: Resource) -> str:
    properties = crd(resource)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    parts = [f"\n## {resource.kind}\n\n{resource.purpose} Short name `{resource.short}`.\n"]
    for part in ("spec", "status"):
        parts.append(
            f"\n### {resource.kind}.{part}\n\n| field | type | default | meaning |\n|---|---|---|---|\n"
        )
        parts += _rows(properties[part], "")
        parts += [f"\nRule: {rule}\n" for rule in _rules(properties[part])]
    return "".join(parts)


def _rows(schema: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, node in schema.get("properties", {}).items():
        path = f"{prefix}{name}" + ("[]" if node.get("type") == "array" else "")
        required = "required" if name in schema.get("required", []) else ""
        default = (
            f"`{_scalar(node['default'])}`"
            if not isinstance(node.get("default", {}), dict | list)
            else required
        )
        description = node.get("description", "").replace("|", "\\|").replace("\n", " ")
        yield f"| `{path}` | {_type(node)} | {default} | {description} |\n"
        yield from _rows(node.get("items", node) if node.get("type") == "array" else node, path + ".")


def _type(node: dict[str, Any]) -> str:
    if "enum" in node:
        return " \\| ".join(f"`{value}`" for value in node["enum"])
    low, high = node.get("minimum"), node.get("maximum")
    bounds = (
        ""
        if low is None and high is None
        else f" {'' if low is None else low}..{'' if high is None else high}"
    )
    return str(node.get("type", "any")) + bounds


def _scalar(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _rules(schema: dict[str, Any]) -> Iterator[str]:
    yield from (rule["message"] for rule in schema.get("x-kubernetes-validations", []))
    for node in schema.get("properties", {}).values():
        yield from _rules(node.get("items", node) if node.get("type") == "array" else node)


def _yaml(document: dict[str, Any]) -> str:
    head = "# Generated from the types in api/ by `python -m anneal_api.generate`; edits are lost.\n"
    return head + yaml.safe_dump(document, sort_keys=False, width=110, allow_unicode=True)


def main(arguments: list[str]) -> int:
    """Write the files, or with --check return 1 when one differs from what stands there."""
    stale = [p for p, text in files().items() if not Path(p).is_file() or Path(p).read_text() != text]
    if "--check" in arguments:
        for path in stale:
            print(f"{path} is not what the types say; run python -m anneal_api.generate", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(files()[path])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
