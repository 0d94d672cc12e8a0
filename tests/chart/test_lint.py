"""checkov judges the chart under every kind of values; what it finds is explained one by one in findings.yaml."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from rendered import CHART, helm

CHECKOV = CHART.parents[1] / ".venv-checkov" / "bin" / "checkov"
EXPLAINED = yaml.safe_load(Path(__file__).with_name("findings.yaml").read_text())
DIGEST = "sha256:" + "0" * 64
ON = ["metrics.serviceMonitor", "metrics.prometheusRule", "metrics.dashboard", "disruptionBudgets"]
VARIANTS = {
    "default": [],
    "everything": [f"{part}.enabled=true" for part in [*ON, "networkPolicies"]]
    + ["watchNamespaces={a,b}", "prepull[0].accelerator=a10-24g,prepull[0].images={serving}"]
    + ["prepull[0].weights={s3://models/base},prepull[0].weightsSize=80Gi"]
    + ["prepull[0].weightsSecretRef.name=s3-models"],
    "namespace": ["rbac.scope=namespace", "secretLabels.enforced=false", "operator.replicas=1"],
    "pinned": [f"images.{name}.digest={DIGEST}" for name in ("operator", "trainers", "serving")],
}
"""Settings of Helm."""


def findings(folder: Path) -> dict[tuple[str, str], set[str]]:
    """Return in which files each check failed on each kind of object."""
    command = [str(CHECKOV), "--directory", str(folder), "--framework", "kubernetes"]
    command += ["--skip-download", "--compact", "--quiet", "--output", "json", "--soft-fail"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": ""}
    )
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 100
    found: dict[tuple[str, str], set[str]] = {}
    for failed in report["results"]["failed_checks"]:
        kind = failed["resource"].split(".")[0]
        found.setdefault((failed["check_id"], kind), set()).add(Path(failed["file_path"]).stem)
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], set[str]]:
    # Looked at apart: checkov would let the policies of one variant count for the pods of the others.
    plain, guarded = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("guarded")
    for name, settings in VARIANTS.items():
        arguments = [argument for setting in settings for argument in ("--set", setting)]
        done = helm("--namespace", "anneal-system", *arguments)
        assert done.returncode == 0, done.stderr
        folder = guarded if name == "everything" else plain
        (folder / f"{name}.yaml").write_text(done.stdout)
    all_found = findings(plain)
    for key, files in findings(guarded).items():
        all_found.setdefault(key, set()).update(files)
    return all_found


def test_every_finding_is_explained_and_every_explanation_needed(
    found: dict[tuple[str, str], set[str]],
) -> None:
    explained = {(check, kind) for check, kinds in EXPLAINED.items() for kind in kinds}
    assert set(found) == explained


def test_digests_and_policies_settle_what_they_are_for(found: dict[tuple[str, str], set[str]]) -> None:
    assert all("pinned" not in found["CKV_K8S_43", kind] for kind in ("Deployment", "Pod"))
    assert "everything" not in found["CKV2_K8S_6", "Pod"]
