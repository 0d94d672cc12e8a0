"""Alerts and dashboard name metrics that exist, with labels they have, as the code defines them."""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from rendered import CHART, of, render

from anneal_operator.metrics import FAMILIES, Metrics
from anneal_serving.gateway.telemetry import Record, Telemetry
from anneal_serving.triton.load import GAUGES
from anneal_trainers.pod import metrics as training

ALL = [f"metrics.{part}.enabled=true" for part in ("serviceMonitor", "prometheusRule", "dashboard")]
SETTINGS = [argument for setting in ALL for argument in ("--set", setting)]
ALERTS = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
DASHBOARD = json.loads((CHART / "files" / "dashboard.json").read_text())
CASES = Path(__file__).with_name("alerts_test.yaml")
KEYWORDS = {"le", "namespace", "pod"}
"""Labels that Prometheus and its operator add, or that a histogram has."""


@cache
def documents() -> list[dict[str, Any]]:
    return render(*SETTINGS)


def expositions() -> Iterator[str]:
    """Yield what each kind of process answers on /metrics once everything has happened to it."""
    counted = Metrics()
    for name, (kind, _) in FAMILIES.items():
        counted.tell(f"{name}_bucket" if kind == "histogram" else name, 1.0)
    yield counted.text()
    yield training.text(
        dict.fromkeys(training.PLAIN, 1.0) | {f"{g}/a": 1.0 for g in training.BY_TASK}
    ).decode()
    served = Telemetry(lambda: 0.0, lambda: 0.0)
    served.ended(Record("/v1/chat/completions", "id", first_token=0.1))
    yield served.exposition().decode()
    yield "".join(f"# TYPE {name} gauge\n{name} 1\n" for name in GAUGES)


def known() -> Mapping[str, set[str]]:
    """Return every sample that is answered somewhere, and the labels seen with it."""
    found: dict[str, set[str]] = {}
    for text in expositions():
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def target_labels() -> set[str]:
    """Return the labels that the PodMonitor gives to all samples of a pod, as Prometheus spells them."""
    (monitor,) = of("PodMonitor", documents())
    return {re.sub(r"[^a-zA-Z0-9_]", "_", label) for label in monitor["spec"]["podTargetLabels"]}


def alerts() -> dict[str, str]:
    return {rule["alert"]: rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]}


def panels() -> dict[str, str]:
    return {
        f"{p['title']} {t['refId']}": t["expr"] for p in DASHBOARD["panels"] for t in p.get("targets", [])
    }


def expressions() -> dict[str, str]:
    return {**alerts(), **panels()}


@pytest.mark.parametrize("name", list(expressions()))
def test_every_metric_exists(name: str) -> None:
    named = set(re.findall(r"anneal_\w+", expressions()[name])) - target_labels()
    assert named
    assert named <= set(known())


@pytest.mark.parametrize("name", list(expressions()))
def test_every_label_is_one_of_the_metrics(name: str) -> None:
    text = expressions()[name]
    groups = re.findall(r"\b(?:by|on) \(([^)]*)\)", text) + re.findall(r"(\w+)(?:=~|!=|=)\"", text)
    labels = {label.strip() for group in groups for label in group.split(",")}
    metrics = set(re.findall(r"anneal_\w+", text)) - target_labels()
    of_operator = {"verb", "kind", "result", "error", "cause", "name"}
    own = set().union(*(known()[metric] for metric in metrics)) | (
        of_operator if metrics & set(OPERATORS) else set()
    )
    assert labels <= own | KEYWORDS | target_labels()


OPERATORS = [*FAMILIES, "anneal_reconcile_seconds_bucket"]


def promtool(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_prometheus_reads_every_expression(tmp_path: Path) -> None:
    """Panels as recording rules: that is how promtool takes expressions."""
    told = [{"record": f"panel_{number}", "expr": expr} for number, expr in enumerate(panels().values())]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": told}]}))
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(ALERTS))
    for name, count in (("panels.yaml", len(told)), ("alerts.yaml", len(alerts()))):
        done = promtool("check", "rules", name, folder=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{count} rules found" in done.stdout


def test_every_alert_speaks_when_it_should_and_names_what_it_means(tmp_path: Path) -> None:
    """Prometheus runs the rules over the series of alerts_test.yaml; their descriptions are fixed texts and left out."""
    short = json.loads(json.dumps(ALERTS))
    for group in short["groups"]:
        for rule in group["rules"]:
            del rule["annotations"]["description"]
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(short))
    (tmp_path / CASES.name).write_text(CASES.read_text())
    done = promtool("test", "rules", CASES.name, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried_both_silent_and_speaking() -> None:
    tried = [t for case in yaml.safe_load(CASES.read_text())["tests"] for t in case["alert_rule_test"]]
    for speaks in (True, False):
        assert {t["alertname"] for t in tried if bool(t["exp_alerts"]) == speaks} == set(alerts())


def test_labels_in_words_are_those_the_expression_keeps() -> None:
    for group in ALERTS["groups"]:
        for rule in group["rules"]:
            words = " ".join(rule["annotations"].values())
            kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", rule["expr"]))))
            plain = {"namespace", "name"} if "by (" not in rule["expr"] else set()
            assert set(re.findall(r"\$labels\.(\w+)", words)) <= kept | plain
            assert rule["labels"]["severity"] in ("critical", "warning")


def test_every_alert_is_described_for_whoever_is_woken() -> None:
    page = (CHART.parents[1] / "docs" / "operations.md").read_text()
    for group in ALERTS["groups"]:
        for rule in group["rules"]:
            assert f"`{rule['alert']}`" in page


def test_rules_and_dashboard_are_installed_as_they_are_tested() -> None:
    (rule,) = of("PrometheusRule", documents())
    assert rule["spec"] == ALERTS
    (board,) = (c for c in of("ConfigMap", documents()) if "anneal.json" in c["data"])
    assert json.loads(board["data"]["anneal.json"]) == DASHBOARD
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_the_operators_metrics_are_found_by_their_service() -> None:
    (monitor,), (service,) = of("ServiceMonitor", documents()), of("Service", documents())
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    (deployment,) = of("Deployment", documents())
    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()


def test_monitors_carry_the_labels_that_a_prometheus_asks_for() -> None:
    found = render(
        *SETTINGS, "--set", "metrics.serviceMonitor.labels.release=kps", "--set", "watchNamespaces={a}"
    )
    for kind in ("ServiceMonitor", "PodMonitor"):
        (monitor,) = of(kind, found)
        assert monitor["metadata"]["labels"]["release"] == "kps"
    (pods,) = of("PodMonitor", found)
    assert pods["spec"]["namespaceSelector"] == {"matchNames": ["a"]}


def test_nothing_of_it_is_installed_unasked() -> None:
    kinds = {d["kind"] for d in render()}
    assert not kinds & {"ServiceMonitor", "PodMonitor", "PrometheusRule", "Service"}
