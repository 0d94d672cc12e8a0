"""CRDs are structural schemas that say what the types say."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from anneal_api import generate
from anneal_api.crd import FINETUNEJOB, MODELDEPLOYMENT, RESOURCES, Resource, crd, structural


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, node in schema.get("properties", {}).items():
        yield from nodes(node, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], f"{path}[]")


def spec(resource: Resource) -> dict[str, Any]:
    return structural(resource.spec, defaults=True)


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda r: r.kind)
def test_every_spec_field_is_described_and_bounded(resource: Resource) -> None:
    for path, node in nodes(spec(resource)):
        if path and not path.endswith("[]"):
            assert node.get("description"), f"{path} says nothing to kubectl explain"
        if node.get("type") == "array":
            assert "maxItems" in node, f"{path} has no bound"


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda r: r.kind)
def test_nothing_the_api_server_refuses(resource: Resource) -> None:
    text = str(crd(resource))
    for word in ("$ref", "anyOf", "'null'", "'title':", "'const'"):
        assert word not in text


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda r: r.kind)
def test_nobody_names_an_image_a_command_or_another_namespace(resource: Resource) -> None:
    fields = {path.rpartition(".")[2].removesuffix("[]") for path, _ in nodes(spec(resource))}
    assert len(fields) > 40
    assert [name for name in fields if re.search("image|registry|command|namespace", name, re.I)] == []


def test_exclusive_bounds_are_booleans_beside_the_bound() -> None:
    weight = spec(FINETUNEJOB)["properties"]["tasks"]["items"]["properties"]["weight"]
    assert (weight["minimum"], weight["exclusiveMinimum"]) == (0, True)


def test_rules_stand_where_their_class_is_used() -> None:
    properties = spec(FINETUNEJOB)["properties"]
    rules = properties["data"]["properties"]["split"]["x-kubernetes-validations"]
    assert rules == [
        {"rule": "self.train + self.validation + self.test == 100", "message": "split must add up to 100"}
    ]


def test_a_default_is_valid_by_itself() -> None:
    split = spec(FINETUNEJOB)["properties"]["data"]["properties"]["split"]
    assert split["default"] == {"train": 95, "validation": 3, "test": 2}


def test_a_layer_is_a_target_once() -> None:
    """The API server refuses a value that a set holds already, and names it."""
    targets = spec(FINETUNEJOB)["properties"]["adapter"]["properties"]["targets"]
    assert targets["x-kubernetes-list-type"] == "set"


def test_status_has_no_defaults() -> None:
    assert not [
        path for path, node in nodes(structural(MODELDEPLOYMENT.status, defaults=False)) if "default" in node
    ]


def test_deployment_scales() -> None:
    version = crd(MODELDEPLOYMENT)["spec"]["versions"][0]
    assert version["subresources"]["scale"]["specReplicasPath"] == ".spec.replicas"


def test_generated_files_are_compared(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    (tmp_path / generate.REFERENCE).write_text("edited")
    assert generate.main(["--check"]) == 1
    assert generate.REFERENCE in capsys.readouterr().err
