"""Raw code becomes rows in several pods, and answers are judged in one: one run over both, on real nodes."""

import json
import sysconfig
from pathlib import Path

import pytest
from tests.cluster.conftest import finetunejob, upload
from tests.cluster.kube import Json, Kube, holds

pytestmark = pytest.mark.cluster

MODULES = ("bisect", "genericpath", "textwrap", "quopri", "reprlib", "sched", "stat", "tokenize")
LARGE = 1_700_000_000
"""Bytes of a file that is no source code, and makes two shards of the folder. It has holes only."""

OUTSIDE = {
    "the store": "open('/mnt/anneal/store/base/config.json')",
    "the plan of the run": "open('/etc/anneal/run.json')",
    "the environment of another": "open('/proc/1/environ')",
    "users": "open('/etc/passwd')",
    "the network": "import socket; socket.socket()",
    "processes": "import os; os.fork()",
    "another's end": "import os; os.kill(1, 0)",
    "a file elsewhere": "open('/tmp/was-here', 'w')",
}
PRISONER = f"""
OUTSIDE = {OUTSIDE!r}
def reached(name):
    try:
        exec(OUTSIDE[name])
    except (PermissionError, FileNotFoundError):
        return False
    return True
def environment():
    import os
    return sorted(os.environ)
"""
PRISON = "\n".join(
    [f"assert reached({name!r}) is False, {name!r}" for name in OUTSIDE]
    + ["assert set(environment()) <= {'PATH', 'LC_CTYPE'}, environment()"]
)
"""Passes where nothing outside the sandbox is in reach. As a suite's own solution it runs before any answer."""

SUITE = [
    {"text": "Twice a number.", "code": "def twice(x): return 2 * x", "test_list": ["assert twice(2) == 4"]},
    {"text": "Look around.", "code": PRISONER, "test_list": [PRISON]},
    {
        "task_id": "Go/0",
        "prompt": 'import (\n    "math"\n)\n\n// Root of a number.\nfunc Root(x float64) float64 {\n',
        "declaration": "\nfunc Root(x float64) float64 {\n",
        "canonical_solution": "    return math.Sqrt(x)\n}\n",
        "test_setup": 'package main\n\nimport (\n    "testing"\n    "github.com/stretchr/testify/assert"\n)\n',
        "test": "func TestRoot(t *testing.T) {\n    assert := assert.New(t)\n    assert.Equal(2.0, Root(4))\n}\n",
    },
    {"prefix": "abc", "suffix": "ghi", "middle": "def"},
    {"context": "letters = ", "line": "'abc'"},
]


def _code(folder: Path) -> None:
    """Write modules of the standard library at both ends of a folder, and between them what must be left out."""
    library = Path(sysconfig.get_path("stdlib"))
    for name in ("a", "z"):
        (folder / name).mkdir(parents=True)
    for number, module in enumerate(MODULES):
        text = (library / f"{module}.py").read_text()
        (folder / "az"[number % 2] / f"{module}.py").write_text(text)
    copied = (library / "textwrap.py").read_text().replace("shorten", "made_shorter", 1)
    (folder / "z" / "textwrap_copy.py").write_text(copied)
    (folder / "z" / "binary.py").write_bytes(b"x = 1\0")
    (folder / "z" / "mail.py").write_text((library / "selectors.py").read_text() + "# someone@company.org\n")


@pytest.fixture(scope="module")
def job(team: Kube, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """A finished FineTuneJob over raw code, scored on a suite of the tenant's own."""
    folder = tmp_path_factory.mktemp("data")
    _code(folder / "code")
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SUITE))
    upload(team, folder, ".")
    hole = f"open('/mnt/anneal/store/code/large.py', 'wb').truncate({LARGE})"
    team.run("exec", "loader", "--", "python3", "-c", hole)
    filters = {"enabled": True, "licenseHeaders": "remove", "personalData": "redact"}
    team.apply(
        finetunejob(
            "code",
            tasks=[
                {
                    "name": "code",
                    "data": {"uri": "pvc://store/code", "format": "code"},
                    "fim": {"rate": 0.5, "tokens": "added"},
                }
            ],
            data={
                "maxLength": 128,
                "overLength": "split",
                "split": {"train": 60, "validation": 20, "test": 20},
                "dedup": "near",
                "decontaminate": ["humaneval"],
                "filters": filters,
            },
            optimization={"maxSteps": 2, "globalBatchTokens": 1024, "learningRate": 0.01},
            workers={"nodes": 1},
            evaluation={"suites": ["pvc://store/own.jsonl"]},
        )
    )
    return team.wait("finetunejob", "code", holds("Complete"), 300, "Complete")


def _read(team: Kube, uri: str, path: str) -> str:
    return team.run("exec", "loader", "--", "cat", f"{uri.replace('pvc://', '/mnt/anneal/')}/{path}")


def test_two_pods_read_the_code(team: Kube, job: Json) -> None:
    (shards,) = team.list("jobs", "anneal.dev/stage=shard,anneal.dev/finetunejob=code")
    assert shards["spec"]["completionMode"] == "Indexed"
    assert (shards["spec"]["completions"], shards["status"]["succeeded"]) == (2, 2)
    indexes = {
        pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"]
        for pod in team.list("pods", "anneal.dev/stage=shard,anneal.dev/finetunejob=code")
    }
    assert indexes == {"0", "1"}


def test_what_was_left_out_is_told_with_its_reason(team: Kube, job: Json) -> None:
    dataset = job["status"]["artifacts"]["dataset"]["uri"]
    dropped = [json.loads(line) for line in _read(team, dataset, "dropped.jsonl").splitlines()]
    reasons = {(row["file"], row["reason"]) for row in dropped}
    assert {("large.py", "tooLarge"), ("z/binary.py", "binary")} <= reasons, reasons
    # One shard has the original, the other the copy.
    (copy,) = [row for row in dropped if row["reason"] == "duplicate"]
    assert {copy["file"], copy["detail"].split()[1].split(":")[0]} == {
        "a/textwrap.py",
        "z/textwrap_copy.py",
    }, copy


def test_the_report_is_linked_and_counts_every_file(team: Kube, job: Json) -> None:
    artifacts = job["status"]["artifacts"]
    assert artifacts["report"] == f"{artifacts['dataset']['uri']}/report.html"
    assert "someone@company.org" not in _read(team, artifacts["dataset"]["uri"], "report.html")
    report = json.loads(_read(team, artifacts["dataset"]["uri"], "report.json"))
    (task,) = report["tasks"]
    assert task["personal"]["email"] >= 1
    assert report["duplicates"] == {**report["duplicates"], "rows": 1, "groups": 1}


def test_shards_are_gone_once_they_are_a_data_set(team: Kube, job: Json) -> None:
    kept = team.run("exec", "loader", "--", "ls", f"/mnt/anneal/store/artifacts/{team.namespace}").split()
    left = "shard" in kept and team.run(
        "exec", "loader", "--", "ls", f"/mnt/anneal/store/artifacts/{team.namespace}/shard"
    )
    assert not left


def test_answers_were_judged_where_nothing_is_in_reach(team: Kube, job: Json) -> None:
    uri = job["status"]["artifacts"]["suites"]["uri"]
    (result,) = json.loads(_read(team, uri, "results.json"))
    assert result["isolation"] in ("filtered", "namespaces")
    assert (result["trust"], result["invalid"]) == ("program", [])
    assert [problem["task"] for problem in result["problems"]] == ["code", "code", "code", "infill", "line"]
    (score,) = job["status"]["suiteScores"]
    assert (score["suite"], score["score"], score["problems"]) == (
        "pvc://store/own.jsonl",
        "pass@1 python",
        2,
    )


def test_judges_of_each_language_had_nothing_of_the_store(team: Kube, job: Json) -> None:
    (suites,) = team.list("jobs", "anneal.dev/stage=suites,anneal.dev/finetunejob=code")
    pod = suites["spec"]["template"]["spec"]
    assert [judge["name"] for judge in pod["initContainers"]] == ["judge-go", "judge-python"]
    for judge in pod["initContainers"]:
        assert ("envFrom" in judge, [each["name"] for each in judge["env"]]) == (False, ["HOME", "TMPDIR"])
        assert not [each for each in judge["volumeMounts"] if each["name"].startswith(("claim-", "config"))]


@pytest.mark.full
def test_human_eval_is_asked_whole(team: Kube, job: Json) -> None:
    spec = {**job["spec"], "evaluation": {"suites": ["humaneval"]}}
    team.apply({**finetunejob("humaneval"), "spec": spec})
    found = team.wait("finetunejob", "humaneval", holds("Complete"), 600, "Complete")
    (score,) = found["status"]["suiteScores"]
    assert (score["score"], score["problems"]) == ("pass@1", 164)
