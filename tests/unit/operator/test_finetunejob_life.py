"""FineTuneJobs from creation to their end, against the API server in memory."""

from datetime import timedelta
from typing import Any

import pytest
from world import GOOD, NAMESPACE, REFS, World, failed, finetunejob, inspected

from anneal_api.base import FINALIZER, LABEL_STAGE
from anneal_api.finetunejob import FineTuneJobSpec, ProgressStatus
from anneal_api.outcome import Score, TrainResult
from anneal_api.runs import FineTuneRun, Progress
from anneal_operator.finetunejob import status as tuning_status
from anneal_operator.finetunejob.finish import CHILDREN_SECONDS

KIND, NAME = "FineTuneJob", "tune"


def begun(**fields: object) -> World:
    world = World()
    world.player.default["inspect"] = inspected()
    world.server.put(finetunejob(**fields))
    return world


def run(world: World, turns: int = 40, seconds: float = 5.0) -> dict[str, tuple[str, str]]:
    world.run(KIND, NAME, turns, seconds)
    return world.conditions(KIND, NAME)


def status(world: World) -> dict:
    return world.resource(KIND, NAME)["status"]


def test_a_job_runs_to_completion() -> None:
    world = begun()
    held = run(world)
    assert held["Complete"] == ("True", "Succeeded")
    assert [stage for stage, _ in world.player.played] == [
        "inspect",
        "prepare",
        "train",
        "evaluate",
        "export",
    ]
    found = status(world)
    assert found["phase"] == "Complete"
    assert found["artifacts"]["merged"] == {"uri": REFS["export"].uri, "digest": REFS["export"].digest}
    (score,) = found["scores"]
    assert score == {
        "name": "a", "baseLoss": "2", "tunedLoss": "1", "basePerplexity": "7.38906", "tunedPerplexity": "2.71828", "rows": 9
    }  # fmt: skip
    assert found["attempts"][0]["reason"] == "Succeeded"
    assert found["restarts"] == 0


def test_much_data_is_read_by_the_pods_of_an_indexed_job_first() -> None:
    world = begun()
    world.player.default["inspect"] = inspected(shards=5)
    del world.player.default["shard"]
    run(world, 4)
    (job,) = world.jobs("shard")
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 5, 5)
    assert (spec["backoffLimitPerIndex"], spec["maxFailedIndexes"]) == (2, 0)
    assert world.jobs("prepare") == []
    assert world.message(KIND, NAME, "DataPrepared").endswith(": 0 of 5 shards")
    world.player.default["shard"] = GOOD["shard"]
    assert run(world)["Complete"][0] == "True"
    assert [stage for stage, _ in world.player.played][:4] == ["inspect", "shard", "prepare", "train"]


def test_shards_whose_job_is_gone_are_not_made_again_while_the_data_set_is() -> None:
    world = begun()
    world.player.default["inspect"] = inspected(shards=2)
    del world.player.default["prepare"]
    run(world, 6)
    (job,) = world.jobs("shard")
    world.server.remove("Job", NAMESPACE, job["metadata"]["name"])
    world.player.default["prepare"] = GOOD["prepare"]
    assert run(world)["Complete"][0] == "True"
    assert [stage for stage, _ in world.player.played].count("shard") == 1


def test_a_shard_that_fails_fails_the_job_and_data_that_is_published_has_none() -> None:
    world = begun()
    world.player.default |= {
        "inspect": inspected(shards=3),
        "shard": failed("Refused", "InvalidRows", "line 3"),
    }
    assert run(world)["Failed"] == ("True", "InvalidRows")
    assert world.message(KIND, NAME, "DataPrepared") == "line 3"
    other = begun()
    other.player.default["inspect"] = inspected("prepare", shards=3)
    assert run(other)["Complete"][0] == "True"
    assert other.jobs("shard") == []


def test_a_finished_job_writes_nothing_more() -> None:
    world = begun()
    run(world)
    before = len(world.server.writes)
    for job in world.jobs():
        world.server.remove("Job", NAMESPACE, job["metadata"]["name"])
    run(world, 10)
    assert len(world.server.writes) == before
    assert world.jobs() == []


def test_jobs_of_a_finished_run_go_after_an_hour_and_the_plan_stays() -> None:
    world = begun()
    run(world)
    world.now += timedelta(seconds=CHILDREN_SECONDS - 600)
    run(world, 2)
    assert world.jobs() != []
    world.now += timedelta(seconds=600)
    run(world, 2)
    assert world.jobs() == []
    assert [name for name in world.server.names("ConfigMap") if "-plan-" in name]
    before = len(world.server.writes)
    run(world, 3)
    assert len(world.server.writes) == before


def undisturbed() -> tuple[int, dict, list]:
    world = begun()
    run(world)
    return len(world.server.writes), status(world), world.player.played


@pytest.mark.slow  # the campaign's quick plans have some of these
@pytest.mark.parametrize("where", ["stop_before", "stop_after"])
def test_a_stop_at_any_write_changes_nothing(where: str) -> None:
    writes, wanted, played = undisturbed()
    for number in range(1, writes + 1):
        world = begun()
        setattr(world.server, where, number)
        world.run(KIND, NAME, 45, until=("Complete", "True"))
        assert getattr(world.server, where) is None, f"write {number} never came"
        got = status(world)
        for field in ("artifacts", "scores", "restarts", "phase", "run"):
            assert got[field] == wanted[field], (number, field)
        assert world.player.played == played, number
        assert len(got["attempts"]) == 1, number


def test_published_stages_are_skipped() -> None:
    world = begun()
    world.player.default["inspect"] = inspected("prepare", "train")
    assert run(world)["Complete"][0] == "True"
    assert [stage for stage, _ in world.player.played] == ["inspect", "evaluate", "export"]


def test_nothing_is_run_when_all_is_published() -> None:
    world = begun()
    world.player.default["inspect"] = inspected("train", "evaluate", "export")
    assert run(world)["Complete"][0] == "True"
    assert [stage for stage, _ in world.player.played] == ["inspect"]
    assert status(world)["scores"][0]["name"] == "a"


def test_a_refused_spec_is_inspected_anew_when_it_changes() -> None:
    world = begun()
    world.player.default.pop("inspect")
    world.player.scripts["inspect"] = [failed("Refused", "DataNotFound", "no such file"), inspected()]
    held = run(world, 6)
    assert held["Inspected"] == ("False", "DataNotFound")
    assert status(world)["phase"] == "Refused"
    world.server.put(finetunejob(tasks=[{"name": "a", "data": {"uri": "pvc://data/b.jsonl"}}]))
    assert run(world)["Complete"][0] == "True"


def test_a_refused_spec_is_looked_at_again_after_a_while() -> None:
    world = begun()
    world.player.default.pop("inspect")
    world.player.scripts["inspect"] = [failed("Refused", "DataNotFound", "no such file"), inspected()]
    run(world, 4)
    world.now += timedelta(seconds=700)
    assert run(world)["Complete"][0] == "True"


def test_unknown_accelerator_names_those_known() -> None:
    world = begun(workers={"accelerator": "h100"})
    assert run(world, 3)["Inspected"] == ("False", "UnknownAccelerator")
    assert "a100-80g" in world.message(KIND, NAME, "Inspected")
    assert world.jobs() == []


def test_suites_are_run_on_what_was_exported() -> None:
    world = begun(evaluation={"suites": ["humaneval", "pvc://problems/own.jsonl"]})
    held = run(world)
    assert [stage for stage, _ in world.player.played][-2:] == ["export", "suites"]
    assert (held["SuitesScored"], held["Complete"]) == (("True", "Published"), ("True", "Succeeded"))
    found = status(world)
    assert found["suiteScores"] == [
        {"suite": "humaneval", "score": "pass@1", "value": "0.5", "interval": "[0.4, 0.6]", "problems": 164}
    ]
    assert found["artifacts"]["suites"]["uri"] == REFS["suites"].uri
    (job,) = [job for job in world.jobs() if job["metadata"]["labels"][LABEL_STAGE] == "suites"]
    pod = job["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    claims = {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v}
    assert "problems" in claims


def test_scores_that_went_with_their_pod_are_read_from_the_store() -> None:
    world = begun(evaluation={"suites": ["humaneval"]})
    done = world.player.default.pop("suites")
    run(world)
    (job,) = world.jobs("suites")
    world.player.end(job, done)
    for pod in world.player.pods(job):
        world.server.remove("Pod", NAMESPACE, pod["metadata"]["name"])
    world.player.default["inspect"] = inspected("suites")
    assert run(world)["Complete"] == ("True", "Succeeded")
    assert status(world)["suiteScores"][0]["value"] == "0.5"


def test_scores_of_suites_that_are_published_are_not_measured_again() -> None:
    world = begun(evaluation={"suites": ["humaneval"]})
    world.player.default["inspect"] = inspected("train", "evaluate", "export", "suites")
    assert run(world)["Complete"] == ("True", "Succeeded")
    assert [stage for stage, _ in world.player.played] == ["inspect"]
    assert status(world)["suiteScores"][0]["value"] == "0.5"


def test_a_store_outside_the_profiles_is_refused() -> None:
    world = World(
        World().config.model_copy(
            update={
                "stores": [
                    type(World().config)
                    .model_fields["stores"]
                    .annotation.__args__[0](name="s", prefixes=["s3://team-"])
                ]
            }
        )
    )
    world.server.put(finetunejob())
    assert run(world, 3)["Inspected"] == ("False", "StoreNotAllowed")


def test_what_does_not_fit_is_refused_with_the_arithmetic() -> None:
    world = begun(workers={"accelerator": "tiny"})
    assert run(world, 6)["PlanReady"] == ("False", "DoesNotFit")
    assert "GiB of 0.01 GiB" in world.message(KIND, NAME, "PlanReady")
    world.server.put(finetunejob())
    assert run(world)["Complete"][0] == "True"


def test_a_failed_group_is_tried_again() -> None:
    world = begun()
    world.player.scripts["train"] = [failed("Failed", "NcclError"), failed("Retry", "StoreAway")]
    run(world, 60)
    found = status(world)
    assert [a["reason"] for a in found["attempts"]] == ["NcclError", "StoreAway", "Succeeded"]
    assert [a["number"] for a in found["attempts"]] == [1, 2, 3]
    assert [a.get("cause") for a in found["attempts"]] == ["Crash", "Storage", ""]
    assert found["restarts"] == 1  # a store that is away is nobody's fault
    assert found["phase"] == "Complete"


def test_restarts_run_out() -> None:
    world = begun(faultPolicy={"maxRestarts": 1})
    world.player.default["train"] = failed("Failed", "NcclError")
    assert run(world, 60)["Failed"] == ("True", "NcclError")
    assert len(status(world)["attempts"]) == 2
    assert "maxRestarts: 1" in world.message(KIND, NAME, "Failed")


def test_a_wrong_configuration_is_never_tried_again() -> None:
    world = begun()
    world.player.default["train"] = failed("Refused", "BadTemplate")
    assert run(world, 30)["Failed"] == ("True", "BadTemplate")
    assert status(world)["restarts"] == 0
    assert len(world.jobs("train")) == 1


def test_a_failed_stage_fails_the_job() -> None:
    world = begun()
    world.player.default["prepare"] = failed("Failed", "OutOfDisk")
    held = run(world, 20)
    assert held["Failed"] == ("True", "OutOfDisk")
    assert held["DataPrepared"] == ("False", "OutOfDisk")


def test_suspend_releases_everything_and_costs_no_restart() -> None:
    world = begun()
    world.player.default.pop("train")
    run(world, 12)
    assert world.conditions(KIND, NAME)["Training"] == ("True", "Running")
    world.server.put(finetunejob(suspend=True))
    held = run(world, 4)
    assert held["Suspended"][0] == "True"
    assert world.jobs("train") == []
    assert not [p for p in world.server.names("Pod") if "-train-" in p]
    world.player.scripts["train"] = [None, None]
    world.server.put(finetunejob())
    run(world, 4)
    world.player.default["train"] = World().player.default["train"]
    held = run(world)
    assert held["Suspended"] == ("False", "Resumed")
    assert held["Complete"][0] == "True"
    assert [a["reason"] for a in status(world)["attempts"]] == ["Suspended", "Succeeded"]
    assert status(world)["restarts"] == 0


def test_a_change_after_planning_is_refused_and_named() -> None:
    world = begun()
    world.player.default.pop("train")
    run(world, 12)
    world.server.put(finetunejob(adapter={"rank": 8}))
    assert run(world, 3)["SpecFollowed"] == ("False", "SpecChanged")
    assert "spec.adapter" in world.message(KIND, NAME, "SpecFollowed")
    world.server.put(finetunejob(faultPolicy={"maxRestarts": 9}))
    assert "SpecFollowed" not in run(world, 3)
    assert len(world.jobs("inspect")) == 1


def test_a_lost_node_ends_the_attempt_at_once() -> None:
    world = begun()
    world.player.default.pop("train")
    run(world, 12)
    job = world.jobs("train")[0]
    pod = world.player.pods(job)[1]
    gone = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
    world.server.set_status(
        "Pod", NAMESPACE, pod["metadata"]["name"], {**pod["status"], "conditions": [gone]}
    )
    run(world, 6)
    first, second = status(world)["attempts"]
    assert (first["reason"], first["node"]) == ("DeletionByTaintManager", "node-1")
    assert second["number"] == 2
    assert [j["metadata"]["labels"]["anneal.dev/attempt"] for j in world.jobs("train")] == ["2"]


def test_a_group_that_is_not_whole_releases_everything_and_tries_again() -> None:
    world = begun(workers={"nodes": 2, "startTimeoutSeconds": 30})
    world.player.default.pop("train")
    run(world, 7)
    job = world.jobs("train")[0]
    pod = world.player.pods(job)[1]
    waiting = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"}
    world.server.set_status(
        "Pod", NAMESPACE, pod["metadata"]["name"], {"phase": "Pending", "conditions": [waiting]}
    )
    assert run(world, 1)["Training"] == ("False", "Unschedulable")
    run(world, 12)
    found = status(world)
    assert found["attempts"][0]["reason"] == "StartTimeout"
    assert found["attempts"][-1]["number"] == 2
    assert found["restarts"] == 0


@pytest.mark.parametrize(
    ("pod_status", "reason"),
    [
        (
            {
                "phase": "Pending",
                "containerStatuses": [
                    {
                        "state": {
                            "waiting": {
                                "reason": "CreateContainerConfigError",
                                "message": 'secret "keys" not found',
                            }
                        }
                    }
                ],
            },
            "SecretMissing",
        ),
        (
            {
                "phase": "Pending",
                "containerStatuses": [
                    {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
                ],
            },
            "ImagePullFailed",
        ),
        (
            {
                "phase": "Pending",
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": '0/4 nodes: persistentvolumeclaim "models" not found',
                    }
                ],
            },
            "ClaimMissing",
        ),
    ],
)
def test_a_stuck_pod_is_explained_and_recovers(pod_status: dict, reason: str) -> None:
    world = begun()
    verdict = world.player.default.pop("inspect")
    run(world, 2)
    pod = world.player.pods(world.jobs("inspect")[0])[0]
    world.server.set_status("Pod", NAMESPACE, pod["metadata"]["name"], pod_status)
    assert run(world, 1)["Inspected"] == ("False", reason)
    assert status(world)["phase"] == "Inspecting"
    world.player.default["inspect"] = verdict
    assert run(world)["Complete"][0] == "True"


def test_a_result_that_went_with_its_pod_is_found_in_the_store() -> None:
    world = begun()
    run(world, 3)
    prepare = world.jobs("prepare")[0]
    for pod in world.player.pods(prepare):
        world.server.remove("Pod", NAMESPACE, pod["metadata"]["name"])
    world.player.default["inspect"] = inspected("prepare")
    assert run(world)["Complete"][0] == "True"
    assert [stage for stage, _ in world.player.played].count("prepare") == 1
    assert status(world)["artifacts"]["dataset"]["digest"] == REFS["prepare"].digest
    assert status(world)["artifacts"]["report"] == f"{REFS['prepare'].uri}/report.html"


def test_a_lost_status_is_rebuilt_without_training_again() -> None:
    world = begun()
    run(world)
    world.server.set_status(KIND, NAMESPACE, NAME, {})
    assert run(world)["Complete"][0] == "True"
    assert [stage for stage, _ in world.player.played].count("train") == 1
    assert status(world)["artifacts"]["adapter"]["digest"] == REFS["train"].digest


def test_a_recreated_job_never_takes_over_its_predecessors_children() -> None:
    world = begun()
    run(world, 5)
    old = {j["metadata"]["name"] for j in world.jobs()}
    leftovers = [world.server.objects[("Job", NAMESPACE, name)] for name in old]
    world.server.remove(KIND, NAMESPACE, NAME)
    for job in leftovers:
        world.server.objects[("Job", NAMESPACE, job["metadata"]["name"])] = job
    world.server.put(finetunejob())
    assert run(world)["Complete"][0] == "True"
    new = {j["metadata"]["name"] for j in world.jobs()} - old
    assert len(new) == 5


def test_stomped_labels_are_repaired_and_nothing_is_made_twice() -> None:
    world = begun()
    world.player.default.pop("train")
    run(world, 12)
    job = world.jobs("train")[0]
    world.server.objects[("Job", NAMESPACE, job["metadata"]["name"])]["metadata"]["labels"] = {}
    run(world, 3)
    assert world.jobs("train")[0]["metadata"]["uid"] == job["metadata"]["uid"]
    assert len(status(world)["attempts"]) == 1


def test_deletion_removes_the_artifacts_first() -> None:
    world = begun(output={"uri": "pvc://store/anneal", "deletionPolicy": "Delete"})
    run(world)
    assert world.resource(KIND, NAME)["metadata"]["finalizers"] == [FINALIZER]
    world.server.remove(KIND, NAMESPACE, NAME)
    world.run(KIND, NAME, 6)
    assert world.player.played[-1][0] == "delete"
    assert world.server.get(KIND, NAMESPACE, NAME) is None
    assert world.jobs() == []


def test_a_failed_removal_holds_the_job_until_the_policy_is_retain() -> None:
    world = begun(output={"uri": "pvc://store/anneal", "deletionPolicy": "Delete"})
    run(world)
    world.player.default["delete"] = failed("Retry", "StoreAway")
    world.server.remove(KIND, NAMESPACE, NAME)
    assert run(world, 4)["ArtifactsDeleted"] == ("False", "StoreAway")
    world.server.put(finetunejob())
    world.run(KIND, NAME, 2)
    assert world.server.get(KIND, NAMESPACE, NAME) is None


def test_an_unplanned_job_is_released_at_once() -> None:
    world = begun(output={"uri": "pvc://store/anneal", "deletionPolicy": "Delete"})
    run(world, 1)
    world.server.remove(KIND, NAMESPACE, NAME)
    world.run(KIND, NAME, 1)
    assert world.server.get(KIND, NAMESPACE, NAME) is None


def test_the_deadline_fails_the_job_and_ends_its_pods() -> None:
    world = begun(activeDeadlineSeconds=100)
    world.player.default.pop("train")
    assert run(world, 40)["Failed"] == ("True", "DeadlineExceeded")
    assert world.jobs("train") == []


def test_a_finished_job_goes_after_its_time() -> None:
    world = begun(ttlSecondsAfterFinished=60)
    run(world, 10)
    world.now += timedelta(seconds=61)
    world.turn(KIND, NAME)
    assert world.server.get(KIND, NAMESPACE, NAME) is None
    assert world.jobs() == []


def test_progress_is_shown_and_asked_for_at_most_every_15_seconds() -> None:
    world = begun()
    world.player.default.pop("train")
    shown = Progress(attempt=1, step=30, total_steps=120, loss=1.23456789, latest_checkpoint=20)
    world.pods.answers[("10.0.0.1", 9400, "/progress")] = shown.model_dump_json(by_alias=True)
    run(world, 24)
    found = status(world)
    assert found["progress"] == {
        "step": 30, "totalSteps": 120, "percent": 25, "loss": "1.23457", "validationLoss": "", "taskLosses": {},
        "tokensPerSecond": "",
    }  # fmt: skip
    assert found["checkpoints"] == {"latest": 20}
    assert 2 <= len(world.pods.asked) <= 24 * 5 / 14


def test_what_is_shown_at_the_end_is_the_end_and_not_the_last_look() -> None:
    world = begun()
    done = world.player.default.pop("train")
    shown = Progress(attempt=1, step=30, total_steps=120, loss=1.25, validation_loss=1.5, tokens_per_second=9)
    world.pods.answers[("10.0.0.1", 9400, "/progress")] = shown.model_dump_json(by_alias=True)
    run(world, 15)
    world.player.default["train"] = done
    run(world)
    found = status(world)["progress"]
    assert (found["step"], found["percent"], found["loss"], found["validationLoss"]) == (100, 100, "0.5", "1")


@pytest.mark.parametrize(
    ("result", "told"), [({"loss": 0.5}, ("0.5", "")), ({"validation_loss": 2.0}, ("1.25", "2"))]
)
def test_a_loss_that_the_pod_does_not_tell_is_not_made_up(result: Any, told: tuple[str, str]) -> None:
    """The first without validation rows; the second of a pod that is one minor version older."""
    seen = ProgressStatus(step=30, loss="1.25", validation_loss="1.5")
    ended = tuning_status.arrived(seen, TrainResult(artifact=REFS["train"], step=100, best_step=80, **result))
    assert (ended.loss, ended.validation_loss) == told


@pytest.mark.parametrize(
    ("objective", "loss", "told"),
    [("supervised", 0.5, "1.64872"), ("supervised", 1e4, ""), ("dpo", 0.5, "")],
)
def test_only_a_mean_over_tokens_is_told_as_a_perplexity(objective: str, loss: float, told: str) -> None:
    spec = FineTuneJobSpec.model_validate(finetunejob(optimization={"objective": objective})["spec"])
    (score,) = tuning_status.scores([Score(name="a", base_loss=1.0, tuned_loss=loss, rows=1)], spec)
    assert score.tuned_perplexity == told


def test_a_pod_that_answers_nonsense_changes_nothing() -> None:
    world = begun()
    world.player.default.pop("train")
    world.pods.answers[("10.0.0.1", 9400, "/progress")] = '{"step": "many"}'
    assert run(world, 15)["Training"] == ("True", "Running")
    assert "progress" not in status(world)


def test_the_plan_outlives_the_operators_settings() -> None:
    world = begun()
    world.player.default.pop("train")
    run(world, 5)
    images = world.config.images.model_copy(update={"trainers": "anneal/trainers:2"})
    world.config = world.config.model_copy(update={"images": images})
    world.restart()
    world.player.default["train"] = World().player.default["train"]
    run(world)
    used = {j["spec"]["template"]["spec"]["containers"][0]["image"] for j in world.jobs()}
    assert used == {"anneal/trainers:1"}


def test_the_plan_holds_defaults_and_findings() -> None:
    world = begun()
    run(world, 5)
    plan = next(m for m in world.server.select("ConfigMap", NAMESPACE) if "-plan-" in m["metadata"]["name"])
    assert plan["immutable"] is True
    held = FineTuneRun.model_validate_json(plan["data"]["run.json"])
    assert held.spec.adapter.rank == 16
    assert held.accelerator.name == "a100-80g"
    assert held.inspection is not None
    assert held.uid == world.resource(KIND, NAME)["metadata"]["uid"]


def test_events_tell_each_transition_once() -> None:
    world = begun()
    world.player.scripts["train"] = [failed("Failed", "NcclError")]
    run(world, 60)
    reasons = [e["reason"] for e in world.server.select("Event", NAMESPACE)]
    assert reasons.count("AttemptEnded") == 1
    assert reasons.count("Complete") == 1
    assert "DataPrepared" in reasons


def test_transition_times_move_only_with_the_status() -> None:
    world = begun()
    world.player.scripts["train"] = [failed("Failed", "NcclError")]
    world.player.default.pop("train")
    run(world, 3)
    before = {c["type"]: c["lastTransitionTime"] for c in status(world)["conditions"]}
    run(world, 5)
    after = {c["type"]: c["lastTransitionTime"] for c in status(world)["conditions"]}
    assert after["Inspected"] == before["Inspected"]
    assert after["PlanReady"] == before["PlanReady"]
