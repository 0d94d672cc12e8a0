"""Weights on the nodes of a profile: who copies them, who is told of them, and who may reach them."""

from functools import cache
from typing import Any

import pytest
import yaml
from rendered import helm, of
from rendered import render as rendered_anew
from test_network_policies import OPERATOR, PODS, lets, peer

from anneal_api.profiles import OperatorConfig
from anneal_api.runs import ENV_NEARBY
from anneal_operator import config, pods
from anneal_runtime import nearby

ENTRY = {
    "accelerator": "a100-80g",
    "images": "{trainers,serving}",
    "weights": "{s3://models/base,hf://owner/model@v1}",
    "weightsSize": "80Gi",
}
WEIGHTS = [w for key, value in ENTRY.items() for w in ("--set", f"prepull[0].{key}={value}")]
KEYS = ["--set", "prepull[0].weightsSecretRef.name=keys"]
PREPULL = ("system", OPERATOR | {"app.kubernetes.io/component": "prepull"})


render = cache(rendered_anew)
"""One rendering for all who ask the same."""


def daemons(*arguments: str) -> dict[str, Any]:
    (found,) = of("DaemonSet", render("--namespace", "system", *WEIGHTS, *arguments))
    return found


def settings(*arguments: str) -> OperatorConfig:
    """Return the operator's settings, as it reads them."""
    found = of("ConfigMap", render("--namespace", "system", *arguments))
    (text,) = (c["data"]["config.yaml"] for c in found if "config.yaml" in c["data"])
    return OperatorConfig.model_validate(yaml.safe_load(text))


def test_a_container_copies_what_is_named_to_a_bounded_folder_of_the_pods_own() -> None:
    pod = daemons(*KEYS)["spec"]["template"]["spec"]
    _, container = pod["containers"]
    assert container["command"][:3] == ["python3", "-m", "anneal_runtime.nearby_server"]
    assert container["args"] == ["s3://models/base", "hf://owner/model@v1"]
    assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]
    (mount,) = container["volumeMounts"]
    assert container["command"][3].startswith(mount["mountPath"] + "/")
    assert pod["volumes"] == [{"name": mount["name"], "emptyDir": {"sizeLimit": "80Gi"}}]
    assert container["resources"]["requests"]["ephemeral-storage"] == "80Gi"
    assert container["securityContext"] == pod["containers"][0]["securityContext"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert "envFrom" not in daemons()["spec"]["template"]["spec"]["containers"][1]


@pytest.mark.parametrize(
    ("images", "own"), [("{serving,trainers}", "trainers"), ("{tritonTensorRT}", "serving")]
)
def test_it_runs_in_an_image_that_the_nodes_have(images: str, own: str) -> None:
    pod = daemons("--set", f"prepull[0].images={images}")["spec"]["template"]["spec"]
    assert f"/{own}:" in pod["containers"][1]["image"]


def test_a_service_leads_to_the_copies_of_ones_own_node_alone() -> None:
    documents = render("--namespace", "system", *WEIGHTS)
    (service,) = (s for s in of("Service", documents) if s["metadata"]["name"].endswith("a100-80g"))
    (daemon,) = of("DaemonSet", documents)
    assert service["spec"]["internalTrafficPolicy"] == "Local"
    assert service["spec"]["selector"].items() <= daemon["spec"]["template"]["metadata"]["labels"].items()
    assert service["spec"]["selector"]["anneal.dev/accelerator"] == "a100-80g"
    (port,) = service["spec"]["ports"]
    (opened,) = daemon["spec"]["template"]["spec"]["containers"][1]["ports"]
    assert (port["targetPort"], opened["containerPort"]) == (opened["name"], nearby.PORT)
    address = f"http://{service['metadata']['name']}.system.svc:{port['port']}"
    assert told(settings(*WEIGHTS)) == {"a100-80g": address, "a10-24g": None, "cpu": None, "plain": None}


def told(found: OperatorConfig) -> dict[str, str | None]:
    """Return what pods on each profile are told, as the operator builds them."""
    return {
        profile.name: environment(profile).get(ENV_NEARBY)
        for profile in (*found.accelerators, config.plain_cpu(found))
    }


def environment(profile: Any) -> dict[str, str]:
    work = pods.Work("image", ["python3"], "plan", "run.json", {}, [], profile, {})
    (container,) = pods.template(work, {}, {})["spec"]["containers"]
    return {each["name"]: each.get("value", "") for each in container["env"]}


def test_nobody_is_told_of_copies_where_none_are_made_and_a_profiles_own_words_stay() -> None:
    images = ["--set", "prepull[0].accelerator=cpu", "--set", "prepull[0].images={serving}"]
    assert set(told(settings(*images)).values()) == {None}
    assert not [s for s in of("Service", render(*images)) if "prepull" in s["metadata"]["name"]]
    own = ["--set", "accelerators[0].name=a100-80g", "--set", "accelerators[0].memoryGib=79"]
    own += [
        "--set",
        "accelerators[0].overlay.env.NCCL_DEBUG=INFO",
        "--set",
        "accelerators[0].overlay.sharedMemory=1Gi",
    ]
    own += ["--set", "accelerators[1].name=cpu", "--set", "accelerators[1].memoryGib=8"]
    profile, _ = settings(*own, *WEIGHTS).accelerators
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


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ("weights={pvc://claim/model}", "weights"),
        ("weights={s3://bucket}", "weights"),
        ("weightsSize=much", "weightsSize"),
        ("weightsSecretRef.key=x", "weightsSecretRef"),
    ],
)
def test_values_of_weights_are_checked(changed: str, complaint: str) -> None:
    done = helm(*WEIGHTS, "--set", f"prepull[0].{changed}")
    assert done.returncode != 0
    assert complaint in done.stderr


@pytest.mark.parametrize("missing", ["weights", "weightsSize"])
def test_weights_and_their_room_are_named_together(missing: str) -> None:
    named = [f"prepull[0].{key}={value}" for key, value in ENTRY.items() if key != missing]
    done = helm(*(word for setting in named for word in ("--set", setting)))
    assert done.returncode != 0
    assert f"'{missing}'" in done.stderr
