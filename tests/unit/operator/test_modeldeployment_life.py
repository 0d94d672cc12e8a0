"""ModelDeployments from creation to serving, and from version to version, against the API server in memory."""

import json
from datetime import timedelta

import pytest
from world import (
    NAMESPACE,
    REFS,
    STORE,
    World,
    deployment_inspected,
    failed,
    finetunejob,
    gated,
    inspected,
    modeldeployment,
    ref,
    succeeded,
)

from anneal_api.outcome import GateSuite
from anneal_api.runs import GatewayConfig

KIND, NAME = "ModelDeployment", "serve"
MODEL = {"uri": REFS["export"].uri}


def begun(**fields: object) -> World:
    world = World()
    world.player.default["inspect"] = deployment_inspected()
    world.server.put(modeldeployment(**({"model": MODEL} | fields)))
    return world


def run(world: World, turns: int = 20, seconds: float = 5.0) -> dict[str, tuple[str, str]]:
    world.run(KIND, NAME, turns, seconds)
    return world.conditions(KIND, NAME)


def status(world: World) -> dict:
    return world.resource(KIND, NAME)["status"]


def stages(world: World) -> list[str]:
    return [v["stage"] for v in status(world)["versions"]]


def replicas(world: World) -> list[dict]:
    return [d for d in world.server.select("Deployment", NAMESPACE) if "-replicas-" in d["metadata"]["name"]]


def route(world: World) -> GatewayConfig:
    held = world.server.get("ConfigMap", NAMESPACE, "serve-gateway")
    assert held is not None
    return GatewayConfig.model_validate(json.loads(held["data"]["gateway.json"]))


def test_a_model_is_built_gated_and_served() -> None:
    world = begun()
    held = run(world)
    assert held == {
        "Adopted": ("True", "Adopted"),
        "Inspected": ("True", "Inspected"),
        "Quantized": ("True", "Published"),
        "Compiled": ("True", "Published"),
        "GatePassed": ("True", "WithinBudget"),
        "Ready": ("True", "Serving"),
        "RolledOut": ("True", "Serving"),
    }
    assert [stage for stage, _ in world.player.played] == ["inspect", "quantize", "engine", "gate"]
    found = status(world)
    assert found["url"] == "http://serve.team.svc"
    assert found["readyReplicas"] == found["desiredReplicas"] == 1
    version = found["versions"][0]
    assert version["digest"] == REFS["export"].digest
    assert version["engine"] == REFS["engine"].digest
    assert version["gate"]["logitKL"] == "0.02"
    (behind,) = route(world).versions
    assert (behind.engine, behind.weight, behind.name) == (REFS["engine"], 100, version["run"])
    assert world.server.get("Service", NAMESPACE, behind.service)["spec"]["clusterIP"] == "None"


def test_a_steady_deployment_writes_nothing_more() -> None:
    world = begun()
    run(world)
    before = len(world.server.writes)
    run(world, 10)
    assert world.server.writes[before:] == []


@pytest.mark.slow  # the campaign's quick plans have some of these
@pytest.mark.parametrize("where", ["stop_before", "stop_after"])
def test_a_stop_at_any_write_changes_nothing(where: str) -> None:
    calm = begun()
    run(calm)
    for number in range(1, len(calm.server.writes) + 1):
        world = begun()
        setattr(world.server, where, number)
        world.run(KIND, NAME, 22, until=("Ready", "True"))
        assert getattr(world.server, where) is None, number
        assert world.player.played == calm.player.played, number
        assert stages(world) == ["Serving"], number
        assert len(replicas(world)) == 1, number
        assert world.conditions(KIND, NAME) == calm.conditions(KIND, NAME), number


def test_it_waits_for_the_job_and_keeps_its_model_when_the_job_goes() -> None:
    world = World()
    world.server.put(modeldeployment())
    assert run(world, 2)["Adopted"] == ("False", "FineTuneJobMissing")
    world.player.default["inspect"] = inspected()
    world.server.put(finetunejob())
    world.turn("FineTuneJob", "tune")
    assert run(world, 1)["Adopted"] == ("False", "WaitingForFineTuneJob")
    world.run("FineTuneJob", "tune")
    world.player.default["inspect"] = deployment_inspected()
    assert run(world)["Ready"] == ("True", "Serving")
    world.server.remove("FineTuneJob", NAMESPACE, "tune")
    assert run(world, 3)["Ready"] == ("True", "Serving")
    assert stages(world) == ["Serving"]


def test_a_model_beyond_the_budget_is_refused_with_its_figures() -> None:
    world = begun()
    world.player.default["gate"] = succeeded(gated(kl=0.5))
    assert run(world)["GatePassed"] == ("False", "BeyondBudget")
    found = status(world)
    assert found["versions"][0]["stage"] == "Refused"
    assert "spec.gate.maxLogitKL: 0.1, measured 0.5" in found["versions"][0]["message"]
    assert replicas(world) == []
    world.server.put(modeldeployment(model=MODEL, gate={"maxLogitKL": 0.6}))
    assert run(world, 6)["Ready"] == ("True", "Serving")
    assert [stage for stage, _ in world.player.played].count("gate") == 1


def suite(engine: float, decision: str, **more: float) -> GateSuite:
    return GateSuite.model_validate(
        {"name": "humaneval", "reference": 0.5, "engine": engine, "decision": decision, **more}
    )


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (suite(0.48, "worse"), "BeyondBudget"),
        (suite(0.48, "undecided"), "WithinBudget"),
        (suite(0.495, "worse"), "WithinBudget"),
        (suite(0.6, "better"), "WithinBudget"),
    ],
    ids=["beyond", "not told from chance", "within", "better"],
)
def test_a_suite_refuses_what_it_can_tell_is_worse(measured: GateSuite, verdict: str) -> None:
    world = begun(gate={"suites": [{"name": "humaneval", "maxDrop": 1}]})
    world.player.default["gate"] = succeeded(gated(suites=[measured]))
    assert run(world)["GatePassed"][1] == verdict
    found = status(world)["versions"][0]
    assert found["gate"]["suites"][0]["decision"] == measured.decision
    assert (
        "humaneval 0.5 to" in world.message(KIND, NAME, "GatePassed")
        or "maxDrop 1 points, measured 2" in found["message"]
    )


def test_the_status_tells_each_tasks_divergence_and_each_suites_count_and_intervals() -> None:
    world = begun(gate={"suites": [{"name": "humaneval", "maxDrop": 1}]})
    counted = {
        "problems": 164,
        "referenceLow": 0.42,
        "referenceHigh": 0.58,
        "engineLow": 0.4,
        "engineHigh": 0.56,
    }
    world.player.default["gate"] = succeeded(gated(suites=[suite(0.48, "undecided", **counted)]))
    run(world)
    detail = status(world)["versions"][0]["gate"]["detail"]
    assert "perplexity a 4 -> 4.12 (KL 0.02)" in detail
    assert "humaneval 0.5 (0.42 to 0.58) -> 0.48 (0.4 to 0.56) of 164 problems" in detail


def test_a_suite_that_is_added_is_measured() -> None:
    world = begun()
    run(world)
    world.player.default["gate"] = succeeded(gated(suites=[suite(0.5, "undecided")]))
    world.server.put(modeldeployment(model=MODEL, gate={"suites": [{"name": "humaneval"}]}))
    run(world)
    assert [stage for stage, _ in world.player.played].count("gate") == 2


def test_a_refused_successor_leaves_the_old_version_serving() -> None:
    world = begun()
    run(world)
    old = route(world)
    world.player.default["inspect"] = deployment_inspected(letter="8")
    world.player.default["gate"] = succeeded(gated(increase=0.4))
    world.server.put(modeldeployment(model={"uri": ref("model", "8").uri}))
    held = run(world)
    assert held["GatePassed"] == ("False", "BeyondBudget")
    assert held["Ready"] == ("True", "Serving")
    assert stages(world) == ["Serving", "Refused"]
    assert route(world) == old


def test_published_stages_are_skipped() -> None:
    world = begun()
    world.player.default["inspect"] = deployment_inspected("quantize", "engine", "gate")
    assert run(world)["Ready"] == ("True", "Serving")
    assert [stage for stage, _ in world.player.played] == ["inspect"]


def test_what_does_not_fit_is_refused_with_the_arithmetic() -> None:
    world = begun(accelerator="tiny")
    assert run(world, 5)["Inspected"] == ("False", "DoesNotFit")
    assert "KV cache" in world.message(KIND, NAME, "Inspected")
    assert stages(world) == ["Refused"]


@pytest.mark.parametrize(
    ("fields", "condition", "reason"),
    [
        ({"accelerator": "h100"}, "Inspected", "UnknownAccelerator"),
        ({"quantization": {"accelerator": "h100"}}, "Inspected", "UnknownAccelerator"),
        ({"gate": {"accelerator": "h100"}}, "Inspected", "UnknownAccelerator"),
        (
            {"gate": {"accelerator": "a100-80g"}, "engine": {"runtime": "tensorrt-llm-engine"}},
            "Inspected",
            "OtherCapability",
        ),
        ({"model": {"uri": "pvc://models/plain"}}, "Inspected", "StoreUnknown"),
    ],
)
def test_what_cannot_be_built_is_said(fields: dict, condition: str, reason: str) -> None:
    world = begun(**fields)
    assert run(world, 3)[condition] == ("False", reason)
    assert world.jobs() == []


def test_a_plain_model_needs_a_store_of_its_own() -> None:
    world = begun(model={"uri": "pvc://models/plain"}, storage={"uri": STORE})
    assert run(world)["Ready"] == ("True", "Serving")


def test_a_pin_that_is_not_the_models_digest_is_refused() -> None:
    world = begun(model={**MODEL, "version": "sha256:" + "a" * 64})
    assert run(world, 5)["Inspected"] == ("False", "VersionNotFound")


def test_a_failed_stage_says_so_and_is_tried_again_later() -> None:
    world = begun()
    world.player.scripts["engine"] = [failed("Failed", "OutOfDisk")]
    held = run(world, 8)
    assert held["Compiled"] == ("False", "OutOfDisk")
    assert stages(world) == ["Failed"]
    world.now += timedelta(seconds=700)
    assert run(world)["Ready"] == ("True", "Serving")


def test_a_wrong_configuration_is_not_tried_again() -> None:
    world = begun()
    world.player.scripts["engine"] = [failed("Refused", "GroupSize")]
    run(world, 8)
    world.now += timedelta(seconds=700)
    assert run(world, 5)["Compiled"] == ("False", "GroupSize")
    assert stages(world) == ["Refused"]


def test_a_version_that_never_gets_ready_times_out_and_is_removed() -> None:
    world = begun()
    world.player._deploy = lambda deployment: None
    run(world, 8)
    assert stages(world) == ["Starting"]
    world.now += timedelta(seconds=1801)
    run(world, 3)
    assert stages(world) == ["TimedOut"]
    assert replicas(world) == []


def test_a_lost_status_is_rebuilt_and_nothing_that_serves_is_removed() -> None:
    world = begun()
    run(world)
    uid = replicas(world)[0]["metadata"]["uid"]
    played = len(world.player.played)
    world.server.set_status(KIND, NAMESPACE, NAME, {})
    assert run(world, 5)["Ready"] == ("True", "Serving")
    assert replicas(world)[0]["metadata"]["uid"] == uid
    assert len(world.player.played) == played


def test_a_drifted_child_is_put_right() -> None:
    world = begun()
    run(world)
    name = replicas(world)[0]["metadata"]["name"]
    world.server.objects[("Deployment", NAMESPACE, name)]["spec"]["replicas"] = 7
    run(world, 2)
    assert replicas(world)[0]["spec"]["replicas"] == 1


def test_a_service_of_somebody_else_is_left_alone() -> None:
    world = begun()
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {"selector": {"app": "theirs"}},
    }
    world.server.put(theirs)
    with pytest.raises(Exception, match="belongs to somebody else"):
        run(world)
    held = world.server.get("Service", NAMESPACE, NAME)
    assert held is not None
    assert held["spec"]["selector"] == {"app": "theirs"}
    assert "NameTaken" in [e["reason"] for e in world.server.select("Event", NAMESPACE)]


def test_replicas_follow_the_spec() -> None:
    world = begun(replicas=1)
    run(world)
    world.server.put(modeldeployment(model=MODEL, replicas=3))
    run(world, 3)
    assert replicas(world)[0]["spec"]["replicas"] == 3
    assert status(world)["readyReplicas"] == 3


def busy(world: World, waiting: float, active: float, cache: float = 0.0) -> None:
    text = (
        f'# HELP x\nanneal_requests_waiting{{model="m"}} {waiting}\nanneal_requests_active {active}\n'
        f"anneal_kv_cache_used_ratio {cache}\n"
    )
    world.pods.answers[("10.0.1.1", 8002, "/metrics")] = text
    world.pods.answers[("10.0.1.2", 8080, "/metrics")] = "anneal_requests_waiting 0\n"


def with_pods(world: World) -> None:
    for stage, address in (("serve", "10.0.1.1"), ("gateway", "10.0.1.2")):
        labels = {"anneal.dev/modeldeployment": NAME, "anneal.dev/stage": stage}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{stage}-0",
                "namespace": NAMESPACE,
                "labels": labels,
                "ownerReferences": [
                    {"kind": "ReplicaSet", "uid": world.resource(KIND, NAME)["metadata"]["uid"]}
                ],
            },
            "status": {
                "phase": "Running",
                "podIP": address,
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
        world.server.put(pod)


def test_replicas_follow_the_load_up_at_once_and_down_after_a_while() -> None:
    rules = {
        "minReplicas": 1,
        "maxReplicas": 4,
        "targetUtilization": 0.5,
        "scaleDownStabilizationSeconds": 60,
    }
    world = begun(autoscaling=rules)
    run(world)
    with_pods(world)
    busy(world, waiting=4, active=2)
    run(world, 1)
    assert replicas(world)[0]["spec"]["replicas"] == 3
    assert status(world)["load"] == "4 waiting, 2 active"
    busy(world, waiting=0, active=1)
    run(world, 10)
    assert status(world)["desiredReplicas"] == 3
    assert "scaleDownSince" in status(world)
    run(world, 5)
    assert status(world)["desiredReplicas"] == 1
    assert "scaleDownSince" not in status(world)
    assert replicas(world)[0]["spec"]["replicas"] == 1


def test_until_its_replicas_are_those_asked_for_it_does_not_wait_for_an_event() -> None:
    """The event may be lost, and the regular look comes after minutes."""
    world = begun(replicas=2)
    run(world)
    settled = world.operator.reconcile(world.key(KIND, NAME))
    assert settled == world.now + timedelta(minutes=5)
    world.server.patch((KIND, NAMESPACE, NAME), {"spec": {"replicas": 1}}, "user")
    assert world.operator.reconcile(world.key(KIND, NAME)) == world.now + timedelta(seconds=30)
    run(world, 2)
    assert world.operator.reconcile(world.key(KIND, NAME)) == world.now + timedelta(minutes=5)


def test_nothing_is_scaled_down_while_a_replica_does_not_answer() -> None:
    world = begun(autoscaling={"minReplicas": 1, "maxReplicas": 4, "scaleDownStabilizationSeconds": 0})
    run(world)
    with_pods(world)
    busy(world, waiting=8, active=4)
    run(world, 2)
    assert status(world)["desiredReplicas"] == 4
    world.pods.answers.pop(("10.0.1.1", 8002, "/metrics"))
    run(world, 5)
    assert status(world)["desiredReplicas"] == 4


def test_an_idle_model_sleeps_and_wakes_with_the_gateways_queue() -> None:
    world = begun(autoscaling={"minReplicas": 0, "maxReplicas": 2, "scaleDownStabilizationSeconds": 10})
    run(world)
    with_pods(world)
    busy(world, waiting=0, active=0)
    held = run(world, 5)
    assert replicas(world)[0]["spec"]["replicas"] == 0
    assert held["Ready"] == ("True", "ScaledToZero")
    world.server.remove("Pod", NAMESPACE, "serve-0")
    world.pods.answers[("10.0.1.2", 8080, "/metrics")] = "anneal_requests_waiting 1\n"
    run(world, 1)
    assert replicas(world)[0]["spec"]["replicas"] == 1


def test_a_name_that_cannot_be_a_services_is_refused() -> None:
    world = World()
    world.server.put(modeldeployment("9lives", model=MODEL))
    world.run(KIND, "9lives", 2)
    assert world.conditions(KIND, "9lives")["Ready"] == ("False", "InvalidName")


def test_deletion_takes_every_child_with_it() -> None:
    world = begun()
    run(world)
    world.server.remove(KIND, NAMESPACE, NAME)
    world.server.collect()
    run_left = {k for k, _, _ in world.server.objects}
    assert run_left <= {"Event", "Pod"}
