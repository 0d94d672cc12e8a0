"""The chart as helm renders it: rights, security, schema, CRDs."""

import json
import subprocess
from typing import Any

import pytest
import yaml
from rendered import CHART, helm, of, render

from anneal_api.runs import VOLUME_ROOT
from anneal_operator import smoke

SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def config(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the operator's settings."""
    (found,) = (c for c in of("ConfigMap", documents) if "config.yaml" in c["data"])
    return dict(yaml.safe_load(found["data"]["config.yaml"]))


def test_no_rule_has_a_wildcard_or_a_secret() -> None:
    for role in of("ClusterRole", render()) + of("Role", render("--set", "watchNamespaces={a}")):
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            assert "secrets" not in rule["resources"]
            assert "pods/exec" not in rule["resources"]


NAMESPACED = ["--set", "rbac.scope=namespace"]


def test_namespace_scope_takes_no_cluster_wide_right() -> None:
    documents = render(*NAMESPACED, "--set", "watchNamespaces={a,b}")
    assert not of("ClusterRole", documents)
    assert not of("ClusterRoleBinding", documents)
    assert [r["metadata"]["namespace"] for r in of("Role", documents)][:2] == ["a", "b"]
    assert config(documents)["namespaces"] == ["a", "b"]


def test_namespace_scope_alone_is_the_releases_own_namespace() -> None:
    documents = render(*NAMESPACED, "--namespace", "team")
    assert not of("ClusterRole", documents)
    assert [r["metadata"]["namespace"] for r in of("Role", documents) if len(r["rules"]) > 3] == ["team"]
    assert config(documents)["namespaces"] == ["team"]


def test_cluster_scope_with_namespaces_reads_nodes_and_nothing_else_beyond_them() -> None:
    documents = render("--set", "watchNamespaces={a}")
    (everywhere,) = of("ClusterRole", documents)
    assert everywhere["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list"]}]
    assert any("jobs" in rule["resources"] for rule in of("Role", documents)[0]["rules"])
    assert config(render())["namespaces"] == []


def test_nodes_are_read_in_cluster_scope_alone() -> None:
    def reads_nodes(role: dict[str, Any]) -> bool:
        return any("nodes" in rule["resources"] for rule in role["rules"])

    assert [reads_nodes(role) for role in of("ClusterRole", render())] == [True]
    assert not any(reads_nodes(r) for r in of("Role", render(*NAMESPACED, "--set", "watchNamespaces={a,b}")))


def test_every_role_is_bound() -> None:
    documents = render("--set", "watchNamespaces={a,b}")
    for kind in ("Role", "ClusterRole"):
        places = [
            [o["metadata"].get("namespace") for o in of(k, documents)] for k in (kind, f"{kind}Binding")
        ]
        assert places[0] == places[1]


def test_the_operator_is_restricted() -> None:
    (deployment,) = of("Deployment", render())
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_of_two_operators_one_may_go_and_only_their_own_lease_is_theirs() -> None:
    documents = render("--namespace", "anneal-system")
    (deployment,) = of("Deployment", documents)
    (budget,) = of("PodDisruptionBudget", documents)
    assert deployment["spec"]["replicas"] == 2
    assert budget["spec"]["maxUnavailable"] == 1
    env = {e["name"]: e["value"] for e in deployment["spec"]["template"]["spec"]["containers"][0]["env"]}
    (role,) = (r for r in of("Role", documents) if r["metadata"]["name"].endswith("-lease"))
    place = f"{role['metadata']['namespace']}/{role['rules'][1]['resourceNames'][0]}"
    assert env["ANNEAL_LEASE"] == place == f"anneal-system/{deployment['metadata']['name']}"
    assert [rule["verbs"] for rule in role["rules"]] == [["create"], ["get", "update"]]
    assert not of("PodDisruptionBudget", render("--set", "operator.replicas=1"))


def test_crds_are_templated_and_kept() -> None:
    crds = of("CustomResourceDefinition", render())
    assert {crd["spec"]["names"]["kind"] for crd in crds} == {"FineTuneJob", "ModelDeployment"}
    assert all(crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for crd in crds)
    assert not of("CustomResourceDefinition", render("--set", "crds.enabled=false"))


def test_a_digest_wins_over_a_tag() -> None:
    digest = "sha256:" + "0" * 64
    (deployment,) = of("Deployment", render("--set", f"images.operator.digest={digest}"))
    image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image.endswith(f"/operator@{digest}")


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("images.operator.digest=latest", "digest"),
        ("acelerators={}", "acelerators"),
        ("accelerators[0].memoryGib=0", "memoryGib"),
        ("rbac.scope=tenant", "scope"),
        ("global.imageRegistry=a b", "imageRegistry"),
        ("metrics.serviceMonitor.interval=often", "interval"),
        ("networkPolicies.monitoring=null", "monitoring"),
        ("trial.accessMode=ReadOnlyMany", "accessMode"),
        ("prepull[0].accelerator=a10-24g,prepull[0].images={operator}", "prepull"),
        ("prepull[0].accelerator=h100,prepull[0].images={serving}", "h100 is none of accelerators"),
    ],
)
def test_values_are_checked(setting: str, complaint: str) -> None:
    done = helm("--set", setting)
    assert done.returncode != 0
    assert complaint in done.stderr


def test_every_image_comes_from_the_registry_of_an_air_gapped_cluster() -> None:
    documents = render("--set", "global.imageRegistry=mirror.local:5000/hub")
    pods = [d["spec"]["template"]["spec"] for d in of("Deployment", documents)] + [
        d["spec"] for d in of("Pod", documents)
    ]
    named = config(documents)["images"]
    sandboxes = named.pop("sandboxes")
    assert sorted(sandboxes) == ["cpp", "go", "java", "javascript"]
    images = [*named.values(), *(c["image"] for pod in pods for c in pod["containers"]), *sandboxes.values()]
    assert len(images) == 10
    assert all(image.startswith("mirror.local:5000/hub/anneal/") for image in images)
    assert images[2] == "mirror.local:5000/hub/anneal/serving-trtllm:26.04"


def test_nodes_of_a_profile_have_its_images_before_they_are_asked_for() -> None:
    digest = "sha256:" + "0" * 64
    asked = ["prepull[0].accelerator=a10-24g", "prepull[0].images={serving,tritonTensorRT}"]
    asked += [f"images.serving.digest={digest}", "accelerators[1].tolerations[0].key=gpu"]
    asked += ["accelerators[1].overlay.imagePullSecrets={pull}", "accelerators[1].name=a10-24g"]
    asked += ["accelerators[1].memoryGib=22", "accelerators[1].nodeSelector.pool=serving"]
    asked += ["accelerators[0].name=cpu", "accelerators[0].memoryGib=8"]
    documents = render(*(argument for setting in asked for argument in ("--set", setting)))
    (daemons,) = of("DaemonSet", documents)
    pod = daemons["spec"]["template"]["spec"]
    assert (pod["nodeSelector"], pod["tolerations"]) == ({"pool": "serving"}, [{"key": "gpu"}])
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    images = config(documents)["images"]
    assert [c["image"] for c in pod["initContainers"]] == [images["serving"], images["tritonTrtllm"]]
    for container in pod["initContainers"] + pod["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert not container["resources"].get("limits", {}).keys() - {"memory"}
    labels = daemons["spec"]["template"]["metadata"]["labels"]
    assert daemons["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert labels["app.kubernetes.io/component"] == "prepull"
    assert not of("DaemonSet", render())


def test_profiles_for_plain_nodes_keep_the_names() -> None:
    def names(*arguments: str) -> list[str]:
        return [p["name"] for p in config(render(*arguments))["accelerators"]]

    assert names() == names("--values", str(CHART / "values-cpu.yaml"))


def hooks(*arguments: str) -> list[dict[str, Any]]:
    found = render("--namespace", "system", *arguments)
    return [d for d in found if d["metadata"].get("annotations", {}).get("helm.sh/hook") == "test"]


def test_the_releases_test_is_restricted_and_may_touch_nothing_but_its_own() -> None:
    found = hooks("--set", "watchNamespaces={a,b}", "--set", "trial.accelerator=a10-24g")
    assert [d["metadata"]["namespace"] for d in of("PersistentVolumeClaim", found) + of("Role", found)] == [
        "a",
        "a",
    ]
    assert of("Role", found)[0]["rules"] == [
        {"apiGroups": ["anneal.dev"], "resources": RESOURCES, "verbs": ["create"]},
        {
            "apiGroups": ["anneal.dev"],
            "resources": RESOURCES,
            "resourceNames": [smoke.NAME],
            "verbs": ["get", "delete"],
        },
    ]
    follower, inputs = sorted(of("Pod", found), key=lambda pod: str(pod["metadata"]["name"]))
    assert follower["spec"]["containers"][0]["command"][3:] == ["a", CLAIM, "a10-24g"]
    assert (follower["metadata"]["namespace"], inputs["metadata"]["namespace"]) == ("system", "a")
    assert not inputs["spec"]["automountServiceAccountToken"]
    assert not any("persistentVolumeClaim" in volume for volume in follower["spec"]["volumes"])
    for pod in (follower, inputs):
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert pod["spec"]["containers"][0]["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


RESOURCES = ["finetunejobs", "modeldeployments"]
CLAIM = "anneal-operator-test"


def test_the_releases_test_waits_for_its_inputs_and_writes_them_where_they_are_read() -> None:
    found = hooks()
    weights = {
        (d["kind"], d["metadata"]["name"]): d["metadata"]["annotations"].get("helm.sh/hook-weight")
        for d in found
    }
    inputs = ("Pod", f"{CLAIM}-inputs")
    assert weights.pop(("Pod", CLAIM)) is None
    assert weights.pop(inputs) == "-1"
    assert set(weights.values()) == {"-2"}
    (container,) = next(p for p in of("Pod", found) if p["metadata"]["name"] == inputs[1])["spec"][
        "containers"
    ]
    assert container["command"][-1] == f"pvc://{CLAIM}/{smoke.FOLDER}"
    assert container["volumeMounts"][0]["mountPath"] == f"{VOLUME_ROOT}/{CLAIM}"


def test_the_releases_test_outlives_its_own_limits() -> None:
    (follower,) = (p for p in of("Pod", hooks()) if p["metadata"]["name"] == CLAIM)
    assert follower["spec"]["activeDeadlineSeconds"] > sum(smoke.LIMITS.values())


def test_the_releases_test_has_a_claim_as_it_is_asked_for() -> None:
    (claim,) = of("PersistentVolumeClaim", hooks())
    assert "storageClassName" not in claim["spec"]
    asked = ["--set", "trial.storageClassName=fast", "--set", "trial.accessMode=ReadWriteOnce"]
    (claim,) = of("PersistentVolumeClaim", hooks(*asked))
    assert (claim["spec"]["storageClassName"], claim["spec"]["accessModes"]) == ("fast", ["ReadWriteOnce"])


def test_secrets_labels_are_enforced_cluster_wide_or_not_at_all() -> None:
    kinds = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
    policies, bindings = (of(kind, render()) for kind in kinds)
    assert [p["metadata"]["name"] for p in policies] == [b["spec"]["policyName"] for b in bindings]
    assert {p["spec"]["failurePolicy"] for p in policies} == {"Fail"}
    for setting in ("rbac.scope=namespace", "secretLabels.enforced=false"):
        assert not any(of(kind, render("--set", setting)) for kind in kinds)


def test_replicas_and_gateways_have_budgets_where_they_are_asked_for() -> None:
    asked = ["--set", "disruptionBudgets.enabled=true", "--set", "watchNamespaces={a,b}"]
    found = {
        (d["metadata"]["namespace"], d["spec"]["selector"]["matchLabels"].get("anneal.dev/stage"))
        for d in budgets(asked)
    }
    assert {(n, s) for n, s in found if s} == {(n, s) for n in "ab" for s in ("serve", "gateway")}
    assert len(budgets([])) == 1


def budgets(arguments: list[str]) -> list[dict[str, Any]]:
    return of("PodDisruptionBudget", render(*arguments))


def test_helm_finds_nothing_to_complain_of() -> None:
    done = subprocess.run(
        ["helm", "lint", "--strict", str(CHART)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout


def test_every_value_is_described() -> None:
    """The schema is the values' manual: what stands in values.yaml is in it, with a word about it."""

    def undescribed(values: Any, schema: dict[str, Any], path: str) -> list[str]:
        if "$ref" in schema:
            schema = SCHEMA["definitions"][schema["$ref"].rsplit("/", 1)[1]]
        if not isinstance(values, dict) or "properties" not in schema:
            return [] if "description" in schema else [path]
        return [
            p
            for name, each in values.items()
            for p in undescribed(each, schema["properties"][name], f"{path}.{name}")
        ]

    assert undescribed(yaml.safe_load((CHART / "values.yaml").read_text()), SCHEMA, "") == []
