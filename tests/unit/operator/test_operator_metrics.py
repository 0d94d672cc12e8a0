"""The operator's own figures: what is counted, and that Prometheus can read it."""

import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families
from world import NAMESPACE, World, failed, finetunejob, inspected

from anneal_api.runs import Progress
from anneal_operator import metrics
from anneal_operator.cluster.counted import CountedCluster
from anneal_operator.cluster.errors import api_error
from anneal_operator.metrics import Metrics
from anneal_operator.reconciler import Reconciler

KIND, NAME = "FineTuneJob", "tune"


def samples(counted: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(counted.text())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples}


def value(counted: Metrics, name: str, /, **labels: str) -> float | None:
    return samples(counted).get((name, tuple(sorted(labels.items()))))


def begun() -> tuple[World, Metrics]:
    world, counted = World(), Metrics()
    world.player.default["inspect"] = inspected()
    cluster = CountedCluster(world.server, counted)
    world.operator = Reconciler(cluster, world.pods, world.config, lambda: world.now, counted)
    world.server.put(finetunejob())
    return world, counted


def test_a_run_is_counted() -> None:
    world, counted = begun()
    world.player.scripts["train"] = [failed("Failed", "RankKilled"), None, None, None, None, None]
    for step in (10, 60):
        shown = Progress(attempt=2, step=step, total_steps=100, latest_checkpoint=step)
        world.pods.answers["10.0.0.1", 9400, "/progress"] = shown.model_dump_json(by_alias=True)
        world.run(KIND, NAME, 10 if step == 10 else 40)
    writes = [w.split("/")[0] for w in world.server.writes]
    assert value(counted, "anneal_writes_total", verb="create", kind="Job") == writes.count("create Job")
    assert value(counted, "anneal_writes_total", verb="update_status", kind=KIND) == writes.count(
        f"status {KIND}"
    )
    assert value(counted, "anneal_attempt_ends_total", cause="Crash") == 1
    share = value(counted, "anneal_goodput_ratio", namespace=NAMESPACE, name=NAME)
    assert share is not None
    assert 0 < share < 1
    assert value(counted, "anneal_reconciles_total", kind=KIND, result="ok") == 50
    assert value(counted, "anneal_reconcile_seconds_count", kind=KIND) == 50
    assert value(counted, "anneal_reconcile_seconds_bucket", kind=KIND, le="+Inf") == 50


def test_a_job_that_is_gone_is_forgotten() -> None:
    counted = Metrics()
    counted.tell("anneal_goodput_ratio", 0.5, namespace=NAMESPACE, name=NAME)
    world = World()
    operator = Reconciler(world.server, world.pods, world.config, lambda: world.now, counted)
    operator.reconcile(world.key(KIND, NAME))
    assert value(counted, "anneal_goodput_ratio", namespace=NAMESPACE, name=NAME) is None


def test_errors_are_counted_by_class() -> None:
    world, counted = begun()
    world.server.fail_with["create", "Job"] = api_error(403, "Forbidden", "no")
    with pytest.raises(type(api_error(403, "Forbidden", "no"))):
        world.operator.reconcile(world.key(KIND, NAME))
    assert value(counted, "anneal_errors_total", kind=KIND, error="Forbidden") == 1
    assert value(counted, "anneal_reconciles_total", kind=KIND, result="error") == 1
    assert value(counted, "anneal_writes_total", verb="create", kind="Job") is None


def test_the_queue_is_asked_when_prometheus_asks() -> None:
    counted = Metrics()
    counted.queue_depth = lambda: 7
    assert value(counted, "anneal_queue_depth") == 7


def test_labels_are_escaped() -> None:
    counted = Metrics()
    counted.count("anneal_errors_total", kind="k", error='a "quoted"\\\nword')
    assert value(counted, "anneal_errors_total", kind="k", error='a "quoted"\\\nword') == 1


def test_they_are_served_and_nothing_else_is() -> None:
    server = metrics.serve(Metrics(), 0)
    assert server is not None
    base = f"http://127.0.0.1:{server.server_address[1]}"
    with urllib.request.urlopen(f"{base}/metrics", timeout=5) as answer:
        assert answer.headers["Content-Type"] == metrics.CONTENT_TYPE
        assert b"anneal_queue_depth 0" in answer.read()
    with pytest.raises(urllib.error.HTTPError, match="404") as refused:
        urllib.request.urlopen(f"{base}/", timeout=5)
    refused.value.close()
    assert metrics.serve(Metrics(), server.server_address[1]) is None
    server.shutdown()
    server.server_close()
