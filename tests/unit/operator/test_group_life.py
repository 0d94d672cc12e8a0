"""Training groups through every kind of end, against the API server in memory: who pays, where it goes on, what is told."""

from datetime import timedelta
from typing import Any

import pytest
from views import raw_node
from world import NAMESPACE, STORE, World, failed, finetunejob, inspected

from anneal_api.outcome import Outcome
from anneal_api.runs import Progress
from anneal_operator import times
from anneal_operator.finetunejob.causes import Cause

KIND, NAME = "FineTuneJob", "tune"
Json = dict[str, Any]


def begun(**fields: object) -> World:
    """Return a world whose training goes on until a test says otherwise."""
    world = World()
    world.player.default["inspect"] = inspected()
    world.goes_well = world.player.default.pop("train")  # type: ignore[attr-defined]
    world.server.put(finetunejob(**fields))
    run(world, 8)
    return world


def run(world: World, turns: int = 40, seconds: float = 5.0) -> Json:
    world.run(KIND, NAME, turns, seconds)
    return status(world)


def finish(world: World) -> Json:
    world.player.default["train"] = world.goes_well  # type: ignore[attr-defined]
    return run(world, 80)


def status(world: World) -> Json:
    return dict(world.resource(KIND, NAME)["status"])


def group(world: World) -> Json:
    """Return the newest training Job."""
    return max(world.jobs("train"), key=lambda job: int(job["metadata"]["labels"]["anneal.dev/attempt"]))


def fail(world: World, outcome: Outcome) -> None:
    world.player.end(group(world), outcome)


def node(world: World, name: str, *, ready: bool = True, **faults: str) -> None:
    since = (world.now - world.now.replace(hour=0, minute=0, second=0)).total_seconds()
    raw = raw_node(name, ready=ready, since=since, **faults)
    raw["metadata"] |= {"namespace": "", "labels": {"anneal.dev/pool": "training"}}
    world.server.put({"apiVersion": "v1", "kind": "Node", **raw})
    world.server.set_status("Node", "", name, raw["status"])


def pod_status(world: World, index: int, **status: object) -> None:
    pod = world.player.pods(group(world))[index]
    held = world.server.objects["Pod", NAMESPACE, pod["metadata"]["name"]]["status"]
    world.server.set_status("Pod", NAMESPACE, pod["metadata"]["name"], {**held, **status})


def disrupt(world: World, index: int, reason: str) -> None:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason}
    pod_status(world, index, conditions=[condition])


def nodes_of(world: World) -> list[str]:
    return sorted(pod["spec"]["nodeName"] for pod in world.player.pods(group(world)))


def events(world: World, reason: str) -> list[str]:
    return [e["message"] for e in world.server.select("Event", NAMESPACE) if e["reason"] == reason]


def progress(world: World, attempt: int, step: int, checkpoint: int, resumed: int | None = None) -> None:
    shown = Progress(
        attempt=attempt, step=step, total_steps=100, latest_checkpoint=checkpoint, resumed_step=resumed
    )
    world.pods.answers["10.0.0.1", 9400, "/progress"] = shown.model_dump_json(by_alias=True)


@pytest.mark.parametrize(
    ("outcome", "cause", "restarts", "avoided"),
    [
        (failed("Failed", "RankKilled"), Cause.CRASH, 1, []),
        (failed("Failed", "OutOfMemory"), Cause.OUT_OF_MEMORY, 1, []),
        (failed("Failed", "Hang"), Cause.HANG, 1, ["node-0"]),
        (failed("Failed", "RankFailed", "Xid (PCI:0000:3b:00): 79, ..."), Cause.ACCELERATOR, 0, ["node-0"]),
        (failed("Retry", "StoreAway"), Cause.STORAGE, 0, []),
        (failed("Retry", "Preempted"), Cause.EVICTION, 0, []),
    ],
)
def test_a_group_that_fails_goes_on(
    outcome: Outcome, cause: Cause, restarts: int, avoided: list[str]
) -> None:
    world = begun()
    fail(world, outcome)
    after = run(world, 8)
    first, second = after["attempts"]
    assert (first["cause"], first["node"], after["restarts"]) == (cause, "node-0", restarts)
    assert [n["name"] for n in after.get("avoided", [])] == avoided
    assert second["number"] == 2
    assert not set(avoided) & set(nodes_of(world))
    assert "/runs/tune-" in first["records"]
    assert first["records"].endswith("/attempt-1")
    assert finish(world)["phase"] == "Complete"
    assert len(events(world, "AttemptEnded")) == 1


@pytest.mark.parametrize(
    ("reason", "cause", "avoided"),
    [
        ("PreemptionByScheduler", Cause.PREEMPTION, []),
        ("EvictionByEvictionAPI", Cause.EVICTION, []),
        ("TerminationByKubelet", Cause.EVICTION, []),
        ("DeletionByTaintManager", Cause.NODE_LOST, ["node-1"]),
    ],
)
def test_a_pod_that_is_taken_away_ends_the_group_at_once_and_for_free(
    reason: str, cause: Cause, avoided: list[str]
) -> None:
    world = begun(faultPolicy={"maxRestarts": 0})
    disrupt(world, 1, reason)
    world.turn(KIND, NAME)
    assert world.jobs("train") == []
    after = run(world, 8)
    assert (after["attempts"][0]["cause"], after["attempts"][0]["node"]) == (cause, "node-1")
    assert [n["name"] for n in after.get("avoided", [])] == avoided
    assert after["restarts"] == 0
    assert finish(world)["phase"] == "Complete"


def test_a_lost_node_ends_the_group_within_15_seconds_even_if_its_pods_tolerate_it() -> None:
    world = begun(faultPolicy={"maxRestarts": 0})
    for number in range(4):
        node(world, f"node-{number}")
    progress(world, 1, 37, 30)
    run(world, 5)
    node(world, "node-1", ready=False)
    known = world.now
    run(world, 16, 1.0)
    first = status(world)["attempts"][0]
    assert first["ended"]
    assert times.seconds_since(times.stamp(known), times.parse(first["ended"])) <= 15
    assert (first["cause"], first["node"]) == (Cause.NODE_LOST, "node-1")
    assert (first["step"], first["lostSteps"]) == (37, 7)
    progress(world, 2, 31, 30)
    after = run(world, 8)
    assert nodes_of(world) == ["node-0", "node-2"]
    assert 0 < after["attempts"][0]["recoverySeconds"] <= 30
    assert after["restarts"] == 0


def test_the_attempts_own_words_say_what_was_lost() -> None:
    world = begun()
    progress(world, 1, 37, 30)
    run(world, 5)
    fail(world, failed("Failed", "RankKilled").model_copy(update={"result": {"step": 41, "checkpoint": 40}}))
    first = run(world, 6)["attempts"][0]
    assert (first["step"], first["lostSteps"]) == (41, 1)


def test_what_all_pods_say_together_is_what_was_lost() -> None:
    """The pod that failed first knows its step; only the group's first one hears of every checkpoint."""
    world = begun()
    progress(world, 1, 37, 30)
    run(world, 5)
    fail(world, failed("Failed", "RankKilled"))
    for index, said in enumerate([{"step": 41, "checkpoint": 40}, {"step": 42, "checkpoint": 20}]):
        words = failed("Failed", "RankKilled").model_copy(update={"result": said})
        ended = {"exitCode": 70, "message": words.model_dump_json(by_alias=True)}
        pod_status(world, index, containerStatuses=[{"name": "main", "state": {"terminated": ended}}])
    first = run(world, 6)["attempts"][0]
    assert (first["step"], first["lostSteps"]) == (42, 2)


def test_without_a_word_of_the_first_pod_the_newest_checkpoint_seen_counts() -> None:
    world = begun()
    progress(world, 1, 37, 30)
    run(world, 5)
    fail(world, failed("Failed", "RankKilled").model_copy(update={"result": {"step": 38}}))
    first = run(world, 6)["attempts"][0]
    assert (first["step"], first["lostSteps"]) == (38, 8)


def test_where_the_records_are_is_in_the_status_and_comes_through_in_the_event() -> None:
    world = begun()
    folder = f"{STORE}/{NAMESPACE}/runs/{NAME}-{world.resource(KIND, NAME)['metadata']['uid'][:8]}/attempt-"
    fail(world, failed("Failed", "RankKilled", "x" * 2000))
    after = run(world, 8)
    assert [attempt["records"] for attempt in after["attempts"]] == [f"{folder}1", f"{folder}2"]
    assert "records" not in after["attempts"][0]["message"]
    (told,) = events(world, "AttemptEnded")
    assert told.endswith(f"; records: {folder}1")
    assert len(told) == 1000


def test_a_node_that_turns_out_to_be_lost_gives_the_restart_back() -> None:
    world = begun()
    for number in range(4):
        node(world, f"node-{number}")
    fail(world, failed("Retry", "PeerLost"))
    held = group(world)["metadata"]["name"]
    pod_status(world, 1, phase="Running", containerStatuses=[{"state": {"running": {}}}])
    after = run(world, 6)
    assert held in world.server.names("Job")
    assert (after["attempts"][0]["cause"], after["attempts"][0]["node"]) == (Cause.PEER_LOST, "node-1")
    assert after["restarts"] == 1
    assert "node-1" not in nodes_of(world)
    node(world, "node-1", ready=False)
    after = run(world, 6)
    assert after["attempts"][0]["cause"] == Cause.NODE_LOST
    assert after["restarts"] == 0


def test_nobody_but_a_launcher_calls_a_group_hung() -> None:
    """A partition between operator and pods: no answer for three hours, and the pods are said to run."""
    world = begun(faultPolicy={"hangTimeoutSeconds": 60})
    after = run(world, 180, 60.0)
    assert world.conditions(KIND, NAME)["Training"] == ("True", "Running")
    assert [a["number"] for a in after["attempts"]] == [1]


def test_memory_that_runs_out_twice_fails_the_job_and_says_where() -> None:
    world = begun()
    world.player.default["train"] = failed("Failed", "OutOfMemory", "micro-batch of 4096 tokens")
    run(world, 40)
    assert world.conditions(KIND, NAME)["Failed"] == ("True", "OutOfMemory")
    assert "micro-batch of 4096 tokens; 2 attempts in a row" in world.message(KIND, NAME, "Failed")


def test_restarts_outside_the_window_do_not_add_up() -> None:
    world = begun(faultPolicy={"maxRestarts": 1, "restartWindow": 600})
    for _ in range(3):
        fail(world, failed("Failed", "RankKilled"))
        run(world, 10)
        world.now += timedelta(seconds=700)
    assert status(world)["restarts"] == 3
    fail(world, failed("Failed", "RankKilled"))
    run(world, 6)
    fail(world, failed("Failed", "RankKilled"))
    run(world, 6)
    assert world.conditions(KIND, NAME)["Failed"] == ("True", "RankKilled")


def test_a_node_that_failed_twice_is_named() -> None:
    world = begun(faultPolicy={"maxRestarts": 9})
    fail(world, failed("Failed", "Hang"))
    run(world, 8)
    assert events(world, "NodeSuspect") == []
    world.now += timedelta(seconds=4000)  # node-0 is taken again for the attempt after the next
    fail(world, failed("Retry", "Preempted"))
    run(world, 8)
    assert nodes_of(world) == ["node-0", "node-1"]
    fail(world, failed("Failed", "Hang"))
    run(world, 8)
    (told,) = events(world, "NodeSuspect")
    assert "node-0 has ended 2 attempts" in told


def test_avoided_nodes_are_taken_again_when_nothing_else_is_left() -> None:
    world = begun()
    node(world, "node-0")
    node(world, "node-1")
    fail(world, failed("Failed", "Hang"))
    after = run(world, 8)
    assert [(n["name"], n["failures"]) for n in after["avoided"]] == [("node-0", 1)]
    assert nodes_of(world) == ["node-0", "node-1"]
    assert len(events(world, "AvoidedNodesTaken")) == 1


def stall(world: World) -> None:
    """Keep one pod of the current group from being placed, until it is given up."""
    tried = len(status(world)["attempts"])
    waiting = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"}
    for _ in range(60):
        held = status(world)["attempts"]
        if len(held) > tried or held[-1].get("ended"):
            return
        if world.jobs("train"):
            pod = world.player.pods(group(world))[-1]
            pending = {"phase": "Pending", "conditions": [waiting]}
            world.server.set_status("Pod", NAMESPACE, pod["metadata"]["name"], pending)
        run(world, 1)
    raise AssertionError("the group was never given up")


def test_avoided_nodes_are_taken_again_after_a_group_that_did_not_start() -> None:
    world = begun(workers={"nodes": 3, "minNodes": 2, "startTimeoutSeconds": 30})
    fail(world, failed("Failed", "Hang"))
    run(world, 4)
    assert nodes_of(world) == ["node-1", "node-2", "node-3"]
    stall(world)
    assert events(world, "AvoidedNodesTaken") == [
        "node-0: taken again, because the group was not whole without them"
    ]
    run(world, 4)
    assert (nodes_of(world)[0], status(world)["nodes"]) == ("node-0", 3)


def shrunk() -> World:
    world = begun(workers={"nodes": 3, "minNodes": 2, "startTimeoutSeconds": 30})
    stall(world)
    assert status(world)["nodes"] == 3
    run(world, 3)
    stall(world)
    run(world, 6)
    return world


def test_a_group_shrinks_when_no_replacement_comes() -> None:
    world = shrunk()
    after = status(world)
    assert [a["nodes"] for a in after["attempts"]] == [3, 3, 2]
    assert (after["nodes"], group(world)["spec"]["completions"]) == (2, 2)
    assert world.conditions(KIND, NAME)["FullSize"] == ("False", "Shrunk")
    assert "2 of 3 nodes" in world.message(KIND, NAME, "FullSize")
    env = group(world)["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "ANNEAL_NODES", "value": "2"} in env
    assert after["restarts"] == 0
    assert finish(world)["phase"] == "Complete"


def stay(world: World) -> None:
    """Let the smaller group train for long enough, up to a checkpoint."""
    number = status(world)["attempts"][-1]["number"]
    progress(world, number, 10, 5)
    run(world, 5)
    world.now += timedelta(seconds=1900)
    progress(world, number, 50, 45)
    run(world, 10)


def test_a_smaller_group_grows_back_at_a_checkpoint() -> None:
    world = shrunk()
    stay(world)
    after = run(world, 6)
    assert [a["cause"] for a in after["attempts"]][2:] == [Cause.RESIZED, ""]
    assert len(world.player.pods(group(world))) == 3
    assert world.conditions(KIND, NAME)["FullSize"] == ("True", "Grown")
    assert finish(world)["restarts"] == 0


def test_a_smaller_group_that_ends_makes_way_for_a_full_one_at_once() -> None:
    world = shrunk()
    for name in ("node-0", "node-1", "node-2"):
        node(world, name)
    progress(world, 3, 10, 5)
    run(world, 5)
    fail(world, failed("Failed", "RankKilled"))
    after = run(world, 8)
    assert [a["nodes"] for a in after["attempts"]][2:] == [2, 3]
    assert world.conditions(KIND, NAME)["FullSize"] == ("True", "Grown")


def test_a_node_that_is_gone_is_not_waited_for() -> None:
    world = begun(workers={"nodes": 3, "minNodes": 2, "startTimeoutSeconds": 30})
    node(world, "node-1")
    node(world, "node-2")
    node(world, "node-0", ready=False)
    fail(world, failed("Failed", "Hang"))
    run(world, 4)
    stall(world)
    assert status(world)["nodes"] == 2
    assert events(world, "AvoidedNodesTaken") == []


def test_growing_in_vain_falls_back_at_once() -> None:
    world = shrunk()
    stay(world)
    stall(world)
    after = run(world, 6)
    assert [a["nodes"] for a in after["attempts"]][2:] == [2, 3, 2]
    assert world.conditions(KIND, NAME)["Training"] == ("True", "Running")


def kueue(world: World, suspend: bool) -> None:
    """Do what Kueue does: let the Job go on with a node selector of its own, or take its place away."""
    name = group(world)["metadata"]["name"]
    spec = world.server.objects["Job", NAMESPACE, name]["spec"]
    spec["suspend"] = suspend
    spec["template"]["spec"].setdefault("nodeSelector", {})["flavor"] = "spot"
    world.server.set_status("Job", NAMESPACE, name, {"startTime": world.text()})


def test_kueue_lets_a_group_go_on_and_takes_its_place_away() -> None:
    world = begun(queueName="gpus", activeDeadlineSeconds=3000, faultPolicy={"maxRestarts": 0})
    job = group(world)
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    run(world, 200, 60.0)  # longer than the start timeout and the deadline
    assert world.conditions(KIND, NAME)["Training"] == ("False", "Queued")
    assert len(status(world)["attempts"]) == 1
    kueue(world, suspend=False)
    after = run(world, 8)
    assert world.conditions(KIND, NAME)["Training"] == ("True", "Running")
    assert after["attempts"][0]["admitted"] is True
    assert group(world)["spec"]["template"]["spec"]["nodeSelector"]["flavor"] == "spot"
    kueue(world, suspend=True)
    after = run(world, 8)
    first, second = after["attempts"]
    assert (first["cause"], after["restarts"]) == (Cause.KUEUE_EVICTION, 0)
    assert second["number"] == 2
    assert group(world)["spec"]["suspend"] is True
    kueue(world, suspend=False)
    assert finish(world)["phase"] == "Complete"


def lists_stay(world: World, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let lists of a kind say for ever what they say now."""
    old, select = world.server.select(kind, NAMESPACE), world.server.select
    monkeypatch.setattr(
        world.server, "select", lambda asked, *rest: old if asked == kind else select(asked, *rest)
    )


def test_a_list_from_before_kueue_let_a_group_go_on_is_no_eviction(monkeypatch: pytest.MonkeyPatch) -> None:
    world = begun(queueName="gpus")
    kueue(world, suspend=False)
    run(world, 4)
    held = world.server.objects["Job", NAMESPACE, group(world)["metadata"]["name"]]["spec"]
    held["suspend"] = True
    lists_stay(world, "Job", monkeypatch)
    held["suspend"] = False
    after = run(world, 4)
    assert [(a["number"], a.get("cause", "")) for a in after["attempts"]] == [(1, "")]
    assert world.conditions(KIND, NAME)["Training"] == ("True", "Running")


def test_a_list_from_before_a_group_was_whole_ends_none_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    world = begun(workers={"nodes": 2, "startTimeoutSeconds": 60})
    progress(world, 1, 10, 5)
    run(world, 5)
    pod_status(world, 1, phase="Pending")
    lists_stay(world, "Pod", monkeypatch)
    pod_status(world, 1, phase="Running")
    after = run(world, 30)
    assert [(a["number"], a.get("cause", "")) for a in after["attempts"]] == [(1, "")]


def test_what_kueue_says_of_the_workload_is_shown() -> None:
    world = begun(queueName="gpus")
    quota = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": "insufficient quota"}
    labels = {"kueue.x-k8s.io/job-uid": group(world)["metadata"]["uid"]}
    workload = {"kind": "Workload", "apiVersion": "kueue.x-k8s.io/v1beta1", "spec": {}}
    world.server.put({**workload, "metadata": {"name": "w", "namespace": NAMESPACE, "labels": labels}})
    world.server.set_status("Workload", NAMESPACE, "w", {"conditions": [quota]})
    run(world, 1)
    assert "insufficient quota" in world.message(KIND, NAME, "Training")


def annotate(world: World, value: str) -> None:
    job = finetunejob()
    job["metadata"]["annotations"] = {"anneal.dev/retry": value}
    world.server.put(job)


def test_a_failed_job_tries_again_when_its_annotation_changes() -> None:
    world = begun()
    annotate(world, "before")
    run(world, 2)
    fail(world, failed("Refused", "BadTemplate"))
    run(world, 4)
    assert world.conditions(KIND, NAME)["Failed"] == ("True", "BadTemplate")
    run(world, 4)
    assert len(status(world)["attempts"]) == 1
    annotate(world, "once more")
    after = run(world, 6)
    assert (after["retry"]["value"], after["retry"]["attempt"]) == ("once more", 1)
    assert world.conditions(KIND, NAME)["Failed"] == ("False", "Retried")
    assert after["attempts"][-1]["number"] == 2
    assert "completionTime" not in after
    assert finish(world)["phase"] == "Complete"


def test_a_failed_stage_is_made_again_on_retry_and_published_ones_are_not() -> None:
    world = begun()
    good = world.player.default["export"]
    world.player.default["export"] = failed("Failed", "OutOfDisk")
    finish(world)
    assert world.conditions(KIND, NAME)["Failed"] == ("True", "OutOfDisk")
    world.player.default["export"] = good
    annotate(world, "disk is larger")
    after = run(world, 20)
    assert after["phase"] == "Complete"
    stages = [stage for stage, _ in world.player.played]
    assert (stages.count("train"), stages.count("prepare"), stages.count("export")) == (1, 1, 2)


def test_time_left_follows_from_the_pace_of_this_attempt() -> None:
    world = begun()
    progress(world, 1, 10, 0)
    run(world, 4)
    assert "timeLeftSeconds" not in status(world)["progress"]
    world.now += timedelta(seconds=85)
    progress(world, 1, 30, 20)
    left = run(world, 4)["progress"]["timeLeftSeconds"]
    assert 280 <= left <= 420


def test_a_quota_is_named_with_what_it_leaves() -> None:
    world = begun()
    job = group(world)
    for pod in world.player.pods(job):
        world.server.remove("Pod", NAMESPACE, pod["metadata"]["name"])
    text = 'Error creating: pods "x" is forbidden: exceeded quota: gpus, requested: 8, used: 8, limited: 8'
    world.server.put(
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": "e", "namespace": NAMESPACE},
            "involvedObject": {"uid": job["metadata"]["uid"]},
            "type": "Warning",
            "reason": "FailedCreate",
            "message": text,
            "lastTimestamp": world.text(),
        }
    )
    world.now += timedelta(seconds=70)
    world.turn(KIND, NAME)
    assert world.conditions(KIND, NAME)["Training"] == ("False", "QuotaExceeded")
    assert "ResourceQuota gpus" in world.message(KIND, NAME, "Training")
    assert "limited: 8" in world.message(KIND, NAME, "Training")


def test_a_pod_that_fails_before_its_job_does_is_no_failure_to_start() -> None:
    world = begun(faultPolicy={"maxRestarts": 5})
    world.now += timedelta(hours=1)
    before = world.resource(KIND, NAME)
    pod_status(world, 1, phase="Failed")
    world.turn(KIND, NAME)
    assert world.resource(KIND, NAME)["status"] == before["status"]
    fail(world, failed("Failed", "RankKilled"))
    assert run(world, 4)["attempts"][0]["cause"] == Cause.CRASH


def test_nothing_is_written_while_nothing_happens() -> None:
    running, queued = begun(), begun(queueName="gpus")
    for world in (running, queued):
        run(world, 4)
        before = len(world.server.writes)
        run(world, 100, 30.0)
        assert world.server.writes[before:] == []


def test_who_was_asked_to_stop_is_waited_for_while_it_saves() -> None:
    world = begun()
    held = [("Pod", NAMESPACE, pod["metadata"]["name"]) for pod in world.player.pods(group(world))]
    for key in held:
        world.server.objects[key]["metadata"]["finalizers"] = ["kubelet/grace"]
    disrupt(world, 1, "EvictionByEvictionAPI")
    run(world, 12)
    assert world.jobs("train") == []
    assert len(status(world)["attempts"]) == 1
    for key in held:
        world.server.objects[key]["metadata"]["finalizers"] = []
        world.server.objects.pop(key)
    run(world, 4)
    assert status(world)["attempts"][-1]["number"] == 2


def test_a_group_that_never_stops_saving_is_not_waited_for_for_ever() -> None:
    world = begun()
    for pod in world.player.pods(group(world)):
        world.server.objects["Pod", NAMESPACE, pod["metadata"]["name"]]["metadata"]["finalizers"] = ["stuck"]
    disrupt(world, 1, "EvictionByEvictionAPI")
    run(world, 40)
    assert status(world)["attempts"][-1]["number"] == 2


def test_recovery_is_told_with_what_it_cost() -> None:
    world = begun()
    progress(world, 1, 37, 30)
    run(world, 5)
    fail(world, failed("Failed", "RankKilled"))
    run(world, 4)
    progress(world, 2, 31, 30)
    run(world, 6)
    (ended,) = events(world, "AttemptEnded")
    assert "(Crash) on node node-0, 7 steps lost" in ended
    (told,) = events(world, "Recovered")
    assert "attempt 2 trains" in told


@pytest.mark.parametrize(("resumed", "step", "lost"), [(39, 39, 0), (30, 37, 7), (0, 37, 37)])
def test_what_a_suspended_group_lost_is_known_when_the_next_one_trains(
    resumed: int, step: int, lost: int
) -> None:
    world = begun()
    progress(world, 1, 37, 30)
    run(world, 5)
    suspend(world, True)
    assert "lostSteps" not in run(world, 4)["attempts"][0]
    suspend(world, False)
    progress(world, 2, resumed + 1, resumed, resumed)
    first = run(world, 6)["attempts"][0]
    assert (first["cause"], first["step"], first["lostSteps"]) == (Cause.SUSPENDED, step, lost)
    (told,) = events(world, "Recovered")
    assert told.endswith(f", {lost} steps lost")


def test_what_a_group_that_made_way_lost_is_known_when_the_larger_one_trains() -> None:
    world = shrunk()
    stay(world)
    progress(world, 4, 52, 51, 51)
    small, full = run(world, 10)["attempts"][2:]
    assert (small["cause"], small["step"], small["lostSteps"]) == (Cause.RESIZED, 51, 0)
    assert full["firstStep"] == 52


def test_an_attempt_that_never_trained_takes_no_losses_for_another() -> None:
    world = begun()
    progress(world, 1, 37, 30)
    run(world, 5)
    for suspended in (True, False, True, False):  # the second group is suspended before its first step
        suspend(world, suspended)
        run(world, 4)
    progress(world, 3, 38, 37, 37)
    first, second, _ = run(world, 6)["attempts"]
    assert (first["lostSteps"], "lostSteps" in second) == (0, False)


def suspend(world: World, wanted: bool) -> None:
    world.server.put(finetunejob(suspend=wanted))


def test_a_job_that_kueue_has_just_let_go_on_has_all_its_time_to_start() -> None:
    world = begun(queueName="gpus")
    world.now += timedelta(hours=9)
    name = group(world)["metadata"]["name"]
    condition = {"type": "Suspended", "status": "True", "reason": "JobSuspended"}
    world.server.set_status("Job", NAMESPACE, name, {"conditions": [condition]})
    world.server.objects["Job", NAMESPACE, name]["spec"]["suspend"] = False
    world.turn(KIND, NAME)  # before the Job controller has set status.startTime
    assert status(world)["attempts"][-1]["number"] == 1
    assert not status(world)["attempts"][-1].get("ended")


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
@pytest.mark.parametrize("turns", range(1, 14))
def test_deletion_at_any_stage_leaves_nothing(policy: str, turns: int) -> None:
    world = World()
    world.player.default["inspect"] = inspected()
    world.player.scripts["train"] = [failed("Failed", "RankKilled")]
    world.server.put(finetunejob(output={"uri": "pvc://store/anneal", "deletionPolicy": policy}))
    world.run(KIND, NAME, turns)
    planned = any("-plan-" in name for name in world.server.names("ConfigMap"))
    world.server.remove(KIND, NAMESPACE, NAME)
    world.run(KIND, NAME, 12)
    assert world.server.get(KIND, NAMESPACE, NAME) is None
    assert world.jobs() == []
    assert world.server.names("Pod") == []
    assert (("delete", "") in world.player.played) is (policy == "Delete" and planned)
