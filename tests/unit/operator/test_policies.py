"""Small pure policies, each on its own."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from world import CONFIG, gated, modeldeployment

from anneal_api.modeldeployment import Gate, ModelDeploymentSpec
from anneal_operator import conditions, naming, objects, observed, outcomes, stuck, times, uris
from anneal_operator.modeldeployment import autoscale, gate
from anneal_operator.modeldeployment.autoscale import Load

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def spec(**rules: object) -> ModelDeploymentSpec:
    fields = {"minReplicas": 1, "maxReplicas": 10, "targetUtilization": 0.5, **rules}
    return ModelDeploymentSpec.model_validate(modeldeployment(autoscaling=fields)["spec"])


@pytest.mark.parametrize(
    ("waiting", "active", "cache", "wanted"),
    [(0, 0, 0, 1), (0, 2, 0, 1), (1, 2, 0, 2), (0, 8, 0, 4), (100, 0, 0, 10), (0, 1, 1.2, 3)],
)
def test_replicas_wanted(waiting: float, active: float, cache: float, wanted: int) -> None:
    load = Load(waiting, active, cache, True)
    assert autoscale.scale(spec(), load, 1, None, NOW).replicas == wanted


@settings(deadline=None)
@given(
    st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e4), st.integers(0, 12), st.booleans(), st.booleans()
)
def test_replicas_stay_within_bounds_and_never_fall_at_once(
    waiting: float, active: float, cache: float, current: int, complete: bool, settled: bool
) -> None:
    since = times.stamp(NOW - timedelta(seconds=1000)) if settled else None
    got = autoscale.scale(spec(), Load(waiting, active, cache, complete), current, since, NOW)
    assert 1 <= got.replicas <= 10
    if not settled or not complete:
        assert got.replicas >= min(10, max(1, current))


def test_gauges_are_summed_over_their_labels() -> None:
    text = '# TYPE x gauge\nx{a="1"} 2\nx{a="2"} 3.5 1700000000\nxy 9\nx NaN\n'
    assert autoscale.gauge(text, "x") == 5.5
    assert autoscale.gauge(text, "z") is None


def test_a_measurement_at_the_limit_passes_and_nan_does_not() -> None:
    assert gate.beyond(Gate(), gate.figures(gated(kl=0.1, increase=0.1))) == ""
    assert "maxLogitKL" in gate.beyond(Gate(), gate.figures(gated(kl=float("nan"))))
    assert "maxPerplexityIncrease" in gate.beyond(Gate(), gate.figures(gated(increase=0.11)))


def pod(**fields: object) -> observed.PodView:
    raw = {
        "metadata": {"name": "p", "ownerReferences": [{"kind": "Job", "uid": "j"}]},
        "spec": {"nodeName": "n"},
        "status": fields,
    }
    return observed.pod_view(raw)


def terminated(code: int, message: str = "", at: str = "2026-01-01T00:00:05Z", **more: str) -> list[dict]:
    ended = {"exitCode": code, "message": message, "finishedAt": at, "reason": "Error", **more}
    return [{"state": {"terminated": ended}}]


def test_a_judge_whose_image_is_not_there_is_told_like_the_works_own() -> None:
    waits = {"name": "judge-go", "state": {"waiting": {"reason": "ErrImagePull", "message": "no sandbox-go"}}}
    held = [{"state": {"waiting": {"reason": "PodInitializing"}}}]
    found = pod(phase="Pending", containerStatuses=held, initContainerStatuses=[waits])
    assert (found.waiting_reason, found.waiting_message) == ("ErrImagePull", "no sandbox-go")
    started = [{"name": "judge-go", "state": {"running": {}}}]
    assert pod(containerStatuses=held, initContainerStatuses=started).waiting_reason == "PodInitializing"


def job(*pods: observed.PodView) -> observed.JobView:
    raw = {"metadata": {"name": "j", "uid": "j", "creationTimestamp": times.stamp(NOW)}}
    return observed.job_view(raw, list(pods))


def test_the_first_own_failure_is_to_blame_not_the_peers_that_followed() -> None:
    peer = pod(phase="Failed", containerStatuses=terminated(75, at="2026-01-01T00:00:01Z"))
    own = pod(phase="Failed", containerStatuses=terminated(70, at="2026-01-01T00:00:02Z"))
    assert outcomes.culprit(job(peer, own)) is own


def test_a_disrupted_pod_is_to_blame_before_the_peers_it_took_along() -> None:
    peer = pod(phase="Failed", containerStatuses=terminated(70))
    gone = pod(
        phase="Running",
        conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}],
    )
    assert outcomes.of_failure(job(peer, gone)).reason == "DeletionByTaintManager"


def test_a_pod_that_says_nothing_is_described_by_its_end() -> None:
    killed = pod(phase="Failed", containerStatuses=terminated(137, reason="OOMKilled"))
    got = outcomes.of_failure(job(killed))
    assert (got.verdict, got.reason) == ("Failed", "OOMKilled")
    refused = pod(phase="Failed", containerStatuses=terminated(64, "not json"))
    assert outcomes.of_failure(job(refused)).verdict == "Refused"


def test_a_job_without_pods_is_explained_after_a_while() -> None:
    assert stuck.diagnose(job(), NOW) is None
    late = stuck.diagnose(job(), NOW + timedelta(seconds=61))
    assert late is not None
    assert late.reason == "PodsNotCreated"


def test_a_transition_time_moves_only_with_the_status() -> None:
    one = conditions.put([], "Ready", False, "A", "", 1, NOW)
    two = conditions.put(one, "Ready", False, "B", "", 1, NOW + timedelta(seconds=9))
    three = conditions.put(two, "Ready", True, "C", "", 2, NOW + timedelta(seconds=9))
    assert one[0].last_transition_time == two[0].last_transition_time == "2026-01-01T00:00:00Z"
    assert three[0].last_transition_time == "2026-01-01T00:00:09Z"
    assert three[0].observed_generation == 2


def test_covers_ignores_defaults_and_sees_drift() -> None:
    wanted = {"spec": {"a": 1, "list": [{"b": 2}], "none": {}, "off": False}}
    assert not objects.covers({"spec": {"a": 1, "list": [{"b": 2}], "off": True}}, wanted)
    assert objects.covers({"spec": {"a": 1, "extra": 0, "list": [{"b": 2, "c": 3}]}}, wanted)
    assert not objects.covers({"spec": {"a": 2, "list": [{"b": 2}]}}, wanted)
    assert not objects.covers({"spec": {"a": 1, "list": [{"b": 2}, {}]}}, wanted)


@given(st.text(alphabet="abc019.-", min_size=1, max_size=253))
def test_child_names_are_dns_labels(name: str) -> None:
    got = naming.child_name(name, "train-12", "uid", 1)
    assert len(got) <= 52
    assert got[0].isalpha()
    assert set(got) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@given(st.text(alphabet="abc-.", min_size=1, max_size=253))
def test_label_values_fit_and_differ(name: str) -> None:
    assert len(naming.label_value(name)) <= 63
    assert len(name) <= 63 or naming.label_value(name) != naming.label_value(name + "x")


def test_stores_are_checked_by_prefix_and_read_off_addresses() -> None:
    assert uris.store_refusal(CONFIG, {"f": "s3://anything"}) == ""
    assert uris.store_of(f"pvc://c/path/team/model/{'a' * 64}") == "pvc://c/path"
    assert uris.store_of("pvc://c/models/plain") is None
