"""Weights on the nodes of a profile: who copies them, who is told of them, and who may reach them.

What helm renders is looked at three times in all, and its schema by jsonschema: helm takes a third of a second.
"""

import json
from typing import Any

import jsonschema
import pytest
import yaml
from rendered import CHART, of, render
from test_network_policies import OPERATOR, PODS, documents, lets, peer

from anneal_api.profiles import AcceleratorProfile, OperatorConfig
from anneal_api.runs import ENV_NEARBY
from anneal_operator import config, pods
from anneal_runtime import nearby

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
ENTRY = {
    "accelerator": "a100-80g",
    "images": ["serving", "trainers"],
    "weights": ["s3://models/base", "hf://owner/model@v1"],
    "weightsSize": "80Gi",
    "weightsSecretRef": {"name": "keys"},
}
PUBLIC = {
    "accelerator": "a10-24g",
    "images": ["tritonTensorRT"],
    "weights": ["hf://owner/model"],
    "weightsSize": "20Gi",
}
IMAGES_ALONE = {"accelerator": "cpu", "images": ["serving"]}
OVERLAY = {"env": {"NCCL_DEBUG": "INFO"}, "sharedMemory": "1Gi"}
PROFILES = [
    each | ({"overlay": OVERLAY} if each["name"] == ENTRY["accelerator"] else {})
    for each in VALUES["accelerators"]
]
WEIGHTS = [
    word
    for name, value in {"accelerators": PROFILES, "prepull": [ENTRY, PUBLIC, IMAGES_ALONE]}.items()
    for word in ("--set-json", f"{name}={json.dumps(value)}")
]
PREPULL = ("system", OPERATOR | {"app.kubernetes.io/component": "prepull"})


def daemon(profile: str) -> dict[str, Any]:
    """Return what runs on the nodes of a profile."""
    (found,) = (d for d in of("DaemonSet", documents(*WEIGHTS)) if d["metadata"]["name"].endswith(profile))
    return found


def containers(profile: str) -> list[dict[str, Any]]:
    return list(daemon(profile)["spec"]["template"]["spec"]["containers"])


def services(*arguments: str) -> dict[str, dict[str, Any]]:
    """Return the Services of copies by name."""
    found = {s["metadata"]["name"]: s for s in of("Service", documents(*arguments))}
    return {name: each for name, each in found.items() if "prepull" in name}


def settings(*arguments: str) -> OperatorConfig:
    """Return the operator's settings, as it reads them."""
    (text,) = (
        c["data"]["config.yaml"] for c in of("ConfigMap", documents(*arguments)) if "config.yaml" in c["data"]
    )
    return OperatorConfig.model_validate(yaml.safe_load(text))


def test_a_container_copies_what_is_named_to_a_bounded_folder_of_the_pods_own() -> None:
    stays, container = containers("a100-80g")
    assert container["command"][:3] == ["python3", "-m", "anneal_runtime.nearby_server"]
    assert container["args"] == ENTRY["weights"]
    (mount,) = container["volumeMounts"]
    assert container["command"][3].startswith(mount["mountPath"] + "/")
    volumes = daemon("a100-80g")["spec"]["template"]["spec"]["volumes"]
    assert volumes == [{"name": mount["name"], "emptyDir": {"sizeLimit": "80Gi"}}]
    assert container["resources"]["requests"]["ephemeral-storage"] == "80Gi"
    assert container["securityContext"] == stays["securityContext"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]


def test_keys_are_given_where_they_are_named_and_a_copy_is_made_where_weights_are() -> None:
    assert containers("a100-80g")[1]["envFrom"] == [{"secretRef": {"name": "keys"}}]
    assert "envFrom" not in containers("a10-24g")[1]
    assert [each["name"] for each in containers("cpu")] == ["stay"]


@pytest.mark.parametrize(("profile", "own"), [("a100-80g", "trainers"), ("a10-24g", "serving")])
def test_it_runs_in_an_image_that_the_nodes_have(profile: str, own: str) -> None:
    assert f"/{own}:" in containers(profile)[1]["image"]


@pytest.mark.parametrize("profile", ["a100-80g", "a10-24g"])
def test_a_service_leads_to_the_copies_of_ones_own_node_alone(profile: str) -> None:
    (service,) = (s for name, s in services(*WEIGHTS).items() if name.endswith(profile))
    labels = daemon(profile)["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["internalTrafficPolicy"] == "Local"
    assert service["spec"]["selector"].items() <= labels.items()
    assert service["spec"]["selector"]["anneal.dev/accelerator"] == profile
    (port,), (opened,) = service["spec"]["ports"], containers(profile)[1]["ports"]
    assert (port["targetPort"], opened["containerPort"]) == (opened["name"], nearby.PORT)
    address = f"http://{service['metadata']['name']}.system.svc:{port['port']}"
    assert told(settings(*WEIGHTS))[profile] == address


def told(found: OperatorConfig) -> dict[str, str | None]:
    """Return what pods on each profile are told, as the operator builds them."""
    return {
        profile.name: environment(profile).get(ENV_NEARBY)
        for profile in (*found.accelerators, config.plain_cpu(found))
    }


def environment(profile: AcceleratorProfile) -> dict[str, str]:
    work = pods.Work("image", ["python3"], "plan", "run.json", {}, [], profile, {})
    (container,) = pods.template(work, {}, {})["spec"]["containers"]
    return {each["name"]: each.get("value", "") for each in container["env"]}


def test_nobody_is_told_of_copies_where_none_are_made_and_a_profiles_own_words_stay() -> None:
    without = [name for name, address in told(settings(*WEIGHTS)).items() if address is None]
    assert without == ["cpu", "plain"]
    assert len(services(*WEIGHTS)) == 2
    assert set(told(settings()).values()) == {None}
    assert not services()
    (profile,) = (p for p in settings(*WEIGHTS).accelerators if p.name == ENTRY["accelerator"])
    assert set(profile.overlay.env) == {"NCCL_DEBUG", ENV_NEARBY}
    assert profile.overlay.shared_memory == "1Gi"


def allowed(source: str, *arguments: str) -> bool:
    """Say whether a pod reaches the copies, by the policies of both ends."""
    pod = PODS[source]
    return lets("Egress", pod, PREPULL, nearby.PORT, *arguments) and lets(
        "Ingress", PREPULL, pod, nearby.PORT, *arguments
    )


def test_pods_on_accelerators_of_watched_namespaces_reach_them_and_no_others() -> None:
    reach = {name for name in PODS if allowed(name, *WEIGHTS)}
    assert reach == {"train", "serve", "export", "other's train"}
    assert not any(lets("Egress", PODS["train"], PREPULL, port, *WEIGHTS) for port in (22, 8080))
    assert not lets("Egress", PODS["train"], PREPULL, nearby.PORT)


def test_who_copies_reaches_stores_and_names_alone() -> None:
    assert lets("Egress", PREPULL, ("internet", {}), 443, *WEIGHTS)
    assert lets("Egress", PREPULL, ("internet", {}), 53, *WEIGHTS)
    assert not lets("Egress", PREPULL, ("internet", {}), 6443, *WEIGHTS)
    assert not lets("Ingress", PREPULL, PODS["train"], 22, *WEIGHTS)


def test_where_all_namespaces_are_watched_pods_on_accelerators_of_all_are_let_in() -> None:
    found = of("NetworkPolicy", render("--set", "networkPolicies.enabled=true", *WEIGHTS))
    (policy,) = (p for p in found if p["metadata"]["name"].endswith("-prepull"))
    (rule,) = policy["spec"]["ingress"]
    (named,) = rule["from"]
    assert peer(named, ("anywhere", {"anneal.dev/stage": "train"}), "default")
    assert not peer(named, ("anywhere", {"app": "notebook"}), "default")
    assert not lets("Ingress", PREPULL, ("anywhere", {"anneal.dev/stage": "train"}), nearby.PORT, *WEIGHTS)


def complaints(entry: dict[str, Any]) -> list[str]:
    """Return what the schema has against an entry of prepull; that helm asks it, test_chart says."""
    found = jsonschema.Draft7Validator(SCHEMA).iter_errors({**VALUES, "prepull": [entry]})
    return [f"{each.json_path}: {each.message}" for each in found]


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"weights": ["pvc://claim/model"]}, "weights[0]"),
        ({"weights": ["s3://bucket"]}, "weights[0]"),
        ({"weightsSize": "much"}, "weightsSize"),
        ({"weightsSecretRef": {"name": "keys", "key": "x"}}, "weightsSecretRef"),
    ],
)
def test_values_of_weights_are_checked(changed: dict[str, Any], where: str) -> None:
    assert complaints(ENTRY) == []
    (complaint,) = complaints(ENTRY | changed)
    assert complaint.startswith(f"$.prepull[0].{where}: ")


@pytest.mark.parametrize("missing", ["weights", "weightsSize"])
def test_weights_and_their_room_are_named_together(missing: str) -> None:
    (complaint,) = complaints({key: value for key, value in PUBLIC.items() if key != missing})
    assert f"'{missing}' is a dependency of" in complaint
