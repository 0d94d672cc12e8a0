"""What is built: restricted pods, deterministic names, the environment and mounts of the contract."""

import dataclasses
import json
from typing import Any

import pytest
from world import CONFIG, STORE, World, deployment_inspected, finetunejob, inspected, modeldeployment, ref

from anneal_api.finetunejob import FineTuneJobSpec
from anneal_api.modeldeployment import ModelDeploymentSpec
from anneal_api.outcome import DeploymentInspection, FineTuneInspection
from anneal_api.profiles import PodOverlay
from anneal_api.runs import DeploymentRun, FineTuneRun
from anneal_operator import config as settings
from anneal_operator import pods
from anneal_operator.finetunejob import resources as tuning
from anneal_operator.modeldeployment import resources as serving

OWNER = {"apiVersion": "anneal.dev/v1alpha1", "kind": "X", "name": "x", "uid": "u", "controller": True}
PLAIN = settings.plain_cpu(CONFIG)


def tuning_site(**fields: object) -> tuning.Site:
    spec = FineTuneJobSpec.model_validate(finetunejob(**fields)["spec"])
    profile = CONFIG.accelerator(spec.workers.accelerator)
    assert profile is not None
    run = FineTuneRun(namespace="team", name="tune", uid="u", spec=spec, accelerator=profile)
    return tuning.Site(
        OWNER, "team", run, "plan", "trainers:1", PLAIN, {"python": "trainers:1", "go": "go:1"}
    )


def judged_site(**fields: object) -> tuning.Site:
    """Return a run whose suites have programs in two languages, with keys of a store."""
    site = tuning_site(
        output={"uri": "s3://bucket/runs", "secretRef": {"name": "keys"}},
        evaluation={"suites": ["humaneval"]},
        **fields,
    )
    found = FineTuneInspection.model_validate({**inspected().result, "judged": ["go", "python"]})
    return dataclasses.replace(site, run=site.run.model_copy(update={"inspection": found}))


def serving_site(store: str = STORE, **fields: object) -> serving.Site:
    spec = ModelDeploymentSpec.model_validate(modeldeployment(**fields)["spec"])
    profile = CONFIG.accelerator(spec.accelerator)
    assert profile is not None
    run = DeploymentRun(
        namespace="team",
        name="serve",
        uid="u",
        spec=spec,
        accelerator=profile,
        model=ref("model", "4"),
        store=store,
        inspection=deployment_inspected().result,
    )
    return serving.Site(OWNER, run, "v1", "plan", CONFIG.images, PLAIN, None)


def gateway(site: serving.Site, env: dict[str, str] | None = None) -> list[dict]:
    """Return the objects of a gateway in front of one version."""
    return serving.gateway([serving.Routed(site, ref("engine", "6"), 100)], site.run.spec, "", env or {})


def all_templates() -> list[tuple[str, dict]]:
    tune, serve = tuning_site(), serving_site()
    made = [tuning.stage(judged_site(), "j-suites", "suites")]
    made += [tuning.stage(tune, f"j-{s}", s) for s in ("inspect", "prepare", "evaluate", "export")]
    made += [
        tuning.shards(tune, "j-shard", 4),
        tuning.artifact_deletion(tune, "j-delete"),
        tuning.train_job(tune, 1, 2),
    ]
    made += [serving.stage(serve, f"j-{s}", s) for s in ("inspect", "quantize", "engine", "gate")]
    made += [serving.replicas(serve, 1)]
    made += [o for o in gateway(serve) if o["kind"] == "Deployment"]
    return [(o["metadata"]["name"], o["spec"]["template"]) for o in made]


@pytest.mark.parametrize(("name", "template"), all_templates())
def test_every_pod_keeps_to_the_restricted_profile(name: str, template: dict) -> None:
    pod = template["spec"]
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] == security["fsGroup"] == 65532
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is (name == "serve-gateway")
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim"}
    assert all(set(volume) - {"name"} <= allowed for volume in pod["volumes"])
    for container in (*pod["containers"], *pod.get("initContainers", [])):
        inner = container["securityContext"]
        assert inner["allowPrivilegeEscalation"] is False
        assert inner["readOnlyRootFilesystem"] is True
        assert inner["capabilities"] == {"drop": ["ALL"]}
        assert "privileged" not in inner
        assert "cpu" not in container["resources"].get("limits", {})
        assert set(container["resources"]["requests"]) >= {"cpu", "memory"}


@pytest.mark.parametrize(("name", "template"), all_templates())
def test_every_mount_has_its_volume(name: str, template: dict) -> None:
    volumes = {v["name"] for v in template["spec"]["volumes"]}
    containers = (*template["spec"]["containers"], *template["spec"].get("initContainers", []))
    assert {m["name"] for container in containers for m in container["volumeMounts"]} == volumes
    assert {m["mountPath"] for m in template["spec"]["containers"][0]["volumeMounts"]} >= {"/tmp", "/work"}


def placed(template: dict) -> tuple[dict, dict]:
    return template["spec"]["nodeSelector"], template["spec"]["containers"][0]["resources"].get("limits", {})


def test_a_divided_engine_is_measured_on_as_many_accelerators_where_it_is_asked_to() -> None:
    site = serving_site(engine={"runtime": "tensorrt-llm-engine", "tensorParallelSize": 2})
    two = {"nvidia.com/gpu": "2"}
    serve = ({"anneal.dev/pool": "serving"}, two)
    for made in (
        serving.stage(site, "j", "engine"),
        serving.stage(site, "j", "gate"),
        serving.replicas(site, 1),
    ):
        assert placed(made["spec"]["template"]) == serve
    elsewhere = dataclasses.replace(site, measurer=CONFIG.accelerator("a100-80g"))
    assert placed(serving.stage(elsewhere, "j", "gate")["spec"]["template"]) == (
        {"anneal.dev/pool": "training"},
        two,
    )
    assert placed(serving.replicas(elsewhere, 1)["spec"]["template"]) == serve


def environment(template: dict) -> dict[str, str]:
    return {e["name"]: e.get("value", "") for e in template["spec"]["containers"][0]["env"]}


def test_the_training_group_is_whole_or_not_at_all() -> None:
    site = tuning_site(workers={"nodes": 3, "acceleratorsPerNode": 8})
    job = tuning.train_job(site, 2, 3)
    spec = job["spec"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (3, 3, "Indexed")
    assert spec["backoffLimit"] == 0
    assert {rule["action"] for rule in spec["podFailurePolicy"]["rules"]} == {"FailJob"}
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["subdomain"] == tuning.train_service(site)["metadata"]["name"]
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    assert {"key", "operator", "effect", "tolerationSeconds"} <= set(pod["tolerations"][0])
    wanted = environment(spec["template"])
    assert wanted["ANNEAL_ATTEMPT"] == "2"
    assert wanted["ANNEAL_NODES"] == "3"
    name = job["metadata"]["name"]
    assert wanted["ANNEAL_RENDEZVOUS"] == f"{name}-0.{pod['subdomain']}:29400"
    assert wanted["NCCL_DEBUG"] == "WARN"
    apart = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]
    assert apart["topologyKey"] == "kubernetes.io/hostname"
    assert apart["labelSelector"]["matchLabels"] == {"batch.kubernetes.io/job-name": name}
    shared = next(v for v in pod["volumes"] if v["name"] == "shm")
    assert shared["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}


def test_nodes_to_avoid_are_an_anti_affinity_of_the_attempt() -> None:
    pod = tuning.train_job(tuning_site(), 2, 2, ["node-1", "node-7"])["spec"]["template"]["spec"]
    required = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert required["nodeSelectorTerms"] == [
        {
            "matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["node-1", "node-7"]}
            ]
        }
    ]
    plain = tuning.train_job(tuning_site(), 2, 2)["spec"]["template"]["spec"]
    assert "nodeAffinity" not in plain["affinity"]


def test_a_training_pod_knows_its_grace_period() -> None:
    template = tuning.train_job(tuning_site(), 1, 2)["spec"]["template"]
    grace = template["spec"]["terminationGracePeriodSeconds"]
    assert environment(template)["ANNEAL_GRACE_SECONDS"] == str(grace)


def test_a_group_has_its_priority_and_none_where_none_is_asked_for() -> None:
    wanted = tuning.train_job(tuning_site(priorityClassName="urgent"), 1, 2)["spec"]["template"]["spec"]
    assert wanted["priorityClassName"] == "urgent"
    assert "priorityClassName" not in tuning.train_job(tuning_site(), 1, 2)["spec"]["template"]["spec"]


def test_the_flight_recorder_is_on_and_names_its_files() -> None:
    env = environment(tuning.train_job(tuning_site(), 1, 2)["spec"]["template"])
    assert int(env["TORCH_FR_BUFFER_SIZE"]) > 0
    assert env["TORCH_FR_DUMP_TEMP_FILE"].startswith("/tmp/")
    assert env["TORCH_NCCL_DEBUG_INFO_PIPE_FILE"] != env["TORCH_FR_DUMP_TEMP_FILE"]


def test_the_service_selects_the_groups_pods_before_they_are_ready() -> None:
    site = tuning_site()
    service, job = tuning.train_service(site), tuning.train_job(site, 1, 2)
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    selector = service["spec"]["selector"].items()
    assert selector <= job["spec"]["template"]["metadata"]["labels"].items()


def test_only_the_stores_claim_is_writable() -> None:
    spec = FineTuneJobSpec.model_validate(finetunejob()["spec"])
    assert tuning.claims(spec) == {"data": True, "models": True, "store": False}
    one = FineTuneJobSpec.model_validate(finetunejob(baseModel={"uri": "pvc://store/base"})["spec"])
    assert tuning.claims(one)["store"] is False
    assert serving.claims(serving_site().run, writes=False) == {"store": True}


def test_secrets_come_once_and_by_reference() -> None:
    site = tuning_site(
        baseModel={"uri": "s3://b/m", "secretRef": {"name": "keys"}},
        output={"uri": STORE, "secretRef": {"name": "keys"}},
    )
    job = tuning.stage(site, "j", "prepare")
    main = job["spec"]["template"]["spec"]["containers"][0]
    assert main["envFrom"] == [{"secretRef": {"name": "keys"}}]


def test_the_keys_of_tracking_servers_reach_the_training_pods_alone() -> None:
    site = tuning_site(
        output={"uri": STORE, "secretRef": {"name": "keys"}},
        telemetry={"wandbProject": "p", "secretRef": {"name": "tracking"}},
    )

    def names(job: dict[str, Any]) -> list[str]:
        return [e["secretRef"]["name"] for e in job["spec"]["template"]["spec"]["containers"][0]["envFrom"]]

    assert names(tuning.train_job(site, 1, 1)) == ["keys", "tracking"]
    assert names(tuning.stage(site, "j", "export")) == ["keys"]


def test_a_stage_is_tried_three_times_but_never_after_exit_64() -> None:
    job = tuning.stage(tuning_site(), "j", "prepare")
    assert job["spec"]["backoffLimit"] == 2
    rules = job["spec"]["podFailurePolicy"]["rules"]
    assert rules[0]["action"] == "FailJob"
    assert rules[0]["onExitCodes"]["values"] == [64]
    assert rules[1]["action"] == "Ignore"


def test_images_follow_the_stage_and_the_runtime() -> None:
    built = ModelDeploymentSpec.model_validate(modeldeployment()["spec"])
    native = ModelDeploymentSpec.model_validate(
        modeldeployment(engine={"runtime": "tensorrt-llm-engine"})["spec"]
    )
    images = CONFIG.images
    assert serving.image(images, built, "quantize") == images.trainers
    assert serving.image(images, built, "serve") == images.serving
    assert serving.image(images, native, "engine") == images.triton_trtllm
    assert serving.image(images, native, "serve") == images.triton_trtllm
    assert serving.image(images, native, "inspect") == images.serving


def test_a_replica_may_finish_its_streams() -> None:
    site = serving_site(drainSeconds=90)
    pod = serving.replicas(site, 2)["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > 90
    assert pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"] > 0
    assert pod["containers"][0]["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"


def test_api_keys_are_files_so_that_they_can_change_under_a_running_gateway() -> None:
    site = serving_site(gateway={"apiKeysSecret": {"name": "keys"}, "cache": True})
    made = gateway(site)
    pod = next(o for o in made if o["kind"] == "Deployment")["spec"]["template"]["spec"]
    volume = next(v for v in pod["volumes"] if "secret" in v)
    assert volume["secret"] == {"secretName": "keys", "defaultMode": 0o440}
    mount = next(m for m in pod["containers"][0]["volumeMounts"] if m["name"] == volume["name"])
    assert (mount["mountPath"], mount["readOnly"]) == ("/etc/anneal-keys", True)
    assert pod["containers"][0]["envFrom"] == [], "a key in the environment would outlive its rotation"
    config = json.loads(next(o for o in made if o["kind"] == "ConfigMap")["data"]["gateway.json"])
    assert (config["apiKeys"], config["cache"]) == (True, True)
    assert [v["runtime"] for v in config["versions"]] == [site.run.spec.engine.runtime]


def test_a_gateway_traces_where_the_administrator_says() -> None:
    site, given = serving_site(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
    made = gateway(site, given)
    pod = next(o for o in made if o["kind"] == "Deployment")["spec"]["template"]["spec"]
    env = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    assert env["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector:4318"
    assert env["OTEL_SERVICE_NAME"] == "serve-gateway"


def test_a_gateway_without_keys_mounts_none() -> None:
    site = serving_site()
    made = gateway(site)
    pod = next(o for o in made if o["kind"] == "Deployment")["spec"]["template"]["spec"]
    assert not any("secret" in volume for volume in pod["volumes"])


def test_a_gateway_reaches_what_all_its_versions_need() -> None:
    old, new = serving_site(), serving_site("pvc://other/anneal")
    both = [serving.Routed(old, ref("engine", "6"), 90), serving.Routed(new, ref("engine", "7"), 10)]
    made = serving.gateway(both, old.run.spec, "t", {})
    pod = next(o for o in made if o["kind"] == "Deployment")["spec"]["template"]["spec"]
    claims = {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v}
    assert claims == {"store", "other"}
    config = json.loads(next(o for o in made if o["kind"] == "ConfigMap")["data"]["gateway.json"])
    assert [v["weight"] for v in config["versions"]] == [90, 10]
    assert (config["trial"], config["configMap"]) == ("t", "serve-gateway")


def test_the_gateway_may_watch_endpoint_slices_and_its_own_config_and_nothing_else() -> None:
    site = serving_site()
    made = gateway(site)
    role = next(o for o in made if o["kind"] == "Role")
    assert role["rules"] == [
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["get", "list", "watch"],
        },
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": ["serve-gateway"],
            "verbs": ["get", "list", "watch"],
        },
    ]
    front = next(o for o in made if o["kind"] == "Service")
    assert front["metadata"]["name"] == "serve"
    assert front["spec"]["ports"][0]["port"] == 80
    assert front["spec"]["ports"][0]["targetPort"] == 8080


def test_an_administrators_capability_is_added_to_the_accelerated_pods() -> None:
    overlay = PodOverlay(capabilities=["IPC_LOCK"])
    assert pods.container_security(overlay.capabilities)["capabilities"] == {
        "drop": ["ALL"],
        "add": ["IPC_LOCK"],
    }


def test_builders_are_deterministic() -> None:
    assert all_templates() == all_templates()


def test_names_fit_whatever_the_owner_is_called() -> None:
    world = World()
    name = "9" + "very.long-name" * 12
    world.player.default["inspect"] = inspected()
    world.server.put(finetunejob(name))
    world.run("FineTuneJob", name, 20)
    assert world.conditions("FineTuneJob", name)["Complete"] == ("True", "Succeeded")
    for job in world.jobs():
        assert len(job["metadata"]["name"]) <= 52
        assert all(len(value) <= 63 for value in job["metadata"]["labels"].values())


def test_judges_have_no_key_no_claim_no_plan_and_no_token() -> None:
    site = judged_site(serviceAccountName="storage")
    pod = tuning.stage(site, "j", "suites")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"]
    (main,), judges = pod["containers"], pod["initContainers"]
    assert main["envFrom"] == [{"secretRef": {"name": "keys"}}]
    assert {"name": "ANNEAL_JUDGES", "value": "go,python"} in main["env"]
    assert [(judge["name"], judge["image"]) for judge in judges] == [
        ("judge-go", "go:1"),
        ("judge-python", "trainers:1"),
    ]
    for judge in judges:
        assert (judge["restartPolicy"], "envFrom" in judge) == ("Always", False)
        assert judge["resources"]["limits"] == {"memory": "6Gi"}
        assert {each["name"]: each["value"] for each in judge["env"]} == {"HOME": "/tmp", "TMPDIR": "/tmp"}
        paths = {each["mountPath"]: each["name"] for each in judge["volumeMounts"]}
        assert paths == {"/judges": "judges", "/tmp": judge["name"], pods.TOKEN_FOLDER: judge["name"]}
        of_judges = [volume for volume in pod["volumes"] if volume["name"] in paths.values()]
        assert [volume["emptyDir"] for volume in of_judges] == [{"sizeLimit": "1Gi"}] * 2


def test_only_suites_with_programs_have_judges_and_inspection_knows_which_there_are() -> None:
    site = tuning_site(evaluation={"suites": ["humaneval"]})
    assert "initContainers" not in tuning.stage(site, "j", "suites")["spec"]["template"]["spec"]
    main = tuning.stage(site, "j", "inspect")["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "ANNEAL_JUDGES", "value": "go,python"} in main["env"]


def test_the_gate_has_the_judges_its_suites_need() -> None:
    site = serving_site()
    found = DeploymentInspection.model_validate({**deployment_inspected().result, "judged": ["go", "python"]})
    images = site.images.model_copy(update={"sandboxes": {"go": "go:1"}})
    site = dataclasses.replace(site, images=images, run=site.run.model_copy(update={"inspection": found}))
    judges = serving.stage(site, "j", "gate")["spec"]["template"]["spec"]["initContainers"]
    assert [judge["image"] for judge in judges] == ["go:1", site.images.serving]
    assert "initContainers" not in serving.stage(site, "j", "engine")["spec"]["template"]["spec"]
