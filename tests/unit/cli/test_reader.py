"""The pod that reads a store is restricted, mounts only the store, and is nobody's child."""

import json

import pytest
from objects import UID, deployment, job, plan_map

from anneal_cli import reader
from anneal_cli.kubectl import Kubectl
from anneal_runtime.errors import Refused


class Maps(Kubectl):
    """A cluster with the ConfigMaps it is made with."""

    def select(self, kind: str, *arguments: str) -> list[dict[str, object]]:
        assert (kind, arguments) == (
            "configmaps",
            ("--selector", "anneal.dev/finetunejob=tune,anneal.dev/stage=plan"),
        )
        return [plan_map()]


def test_the_steps_are_read_beside_the_store_alone() -> None:
    pod = reader.steps(plan_map())
    (container,) = pod["spec"]["containers"]
    assert container["image"] == "anneal/trainers@sha256:1"
    run = "pvc://store/artifacts/demo/runs/tune-01234567"
    assert container["command"][2:] == ["anneal_trainers", "browse", "ledger", run]
    assert container["envFrom"] == [{"secretRef": {"name": "store-keys"}}]
    claims = {
        m["mountPath"]: m["readOnly"] for m in container["volumeMounts"] if m["name"].startswith("claim")
    }
    assert claims == {"/mnt/anneal/store": True}
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["imagePullSecrets"] == [{"name": "pull"}]
    assert container["securityContext"]["readOnlyRootFilesystem"]


def test_rows_are_read_from_the_data_set() -> None:
    dataset = "pvc://store/artifacts/demo/dataset/0a"
    (container,) = reader.samples(plan_map(), dataset)["spec"]["containers"]
    assert container["command"][4:] == ["samples", dataset]
    assert {m["readOnly"] for m in container["volumeMounts"] if m["name"].startswith("claim")} == {True}


def test_the_operator_does_not_take_it_for_a_stage() -> None:
    metadata = reader.artifacts(plan_map())["metadata"]
    assert "ownerReferences" not in metadata
    assert not any(label.startswith("anneal.dev/") for label in metadata["labels"])


def test_only_removing_writes() -> None:
    pod = reader.removal(plan_map(), ["pvc://store/artifacts/demo/adapter/x"])
    (container,) = pod["spec"]["containers"]
    assert container["command"][-2:] == ["pvc://store/artifacts/demo", "pvc://store/artifacts/demo/adapter/x"]
    assert [m["readOnly"] for m in container["volumeMounts"] if m["name"] == "claim-0"] == [False]


def test_the_plan_is_that_of_this_very_resource() -> None:
    assert reader.plan_of(Maps(), job())["metadata"]["name"] == "tune-plan"
    again = job()
    again["metadata"] = {**again["metadata"], "uid": UID.replace("0", "9")}
    with pytest.raises(Refused, match="tune has no plan yet; `anneal why tune`"):
        reader.plan_of(Maps(), again)


def test_a_deployment_has_no_steps() -> None:
    with pytest.raises(Refused, match="serve is a ModelDeployment"):
        reader.steps(_served())


def _served() -> dict[str, object]:
    made = plan_map()
    run = {
        "namespace": "demo",
        "name": "serve",
        "uid": "m",
        "spec": deployment()["spec"],
        "accelerator": {"name": "cpu", "memoryGib": 8},
        "model": {"uri": "pvc://store/artifacts/demo/model/m", "digest": "sha256:1"},
        "store": "pvc://store/artifacts",
    }
    made["metadata"]["ownerReferences"][0]["kind"] = "ModelDeployment"
    made["data"]["run.json"] = json.dumps(run)
    return made


def test_a_deployments_store_is_read_with_the_same_image() -> None:
    (container,) = reader.artifacts(_served())["spec"]["containers"]
    assert container["image"] == "anneal/trainers@sha256:1"
    assert container["command"][-1] == "pvc://store/artifacts/demo"
