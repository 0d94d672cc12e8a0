"""The commands from end to end, with a kubectl that answers from files: arguments in, text or JSON and exit codes out."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from objects import SAMPLES, STATUS, Terminal, deployment, job, plan_map, steps, told

from anneal_cli import completion
from anneal_cli.__main__ import anneal
from anneal_cli.kubectl import Kubectl, stuck

KUBECTL = """#!/bin/sh
printf '%s\\n' "$*" >> "$FAKE/calls"
[ "$1" = create ] && { cat; echo; } >> "$FAKE/stdin"
name=$(printf '%s' "$*" | tr ' /' '__')
[ -f "$FAKE/$name" ] && cat "$FAKE/$name" && { mv "$FAKE/$name.next" "$FAKE/$name" 2>/dev/null; exit 0; }
echo "Error from server (NotFound): $*" >&2
exit 1
"""
HOME = "pvc://store/artifacts/demo"
FTJ, MDEP = "finetunejobs.anneal.dev", "modeldeployments.anneal.dev"
Answers = Callable[..., None]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Return what makes the fake kubectl answer: its arguments, and a text or an object."""
    tool = tmp_path / "bin" / "kubectl"
    tool.parent.mkdir()
    tool.write_text(KUBECTL)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE", str(tmp_path))

    def answer(arguments: str, said: Any) -> None:
        name = arguments.replace(" ", "_").replace("/", "_")
        (tmp_path / name).write_text(said if isinstance(said, str) else json.dumps(said))

    answer(f"get {FTJ} --output json", {"items": [job()]})
    answer(f"get {MDEP} --output json", {"items": [deployment(url="http://serve")]})
    return answer


def reads(cluster: Answers, lines: list[dict[str, Any]], phase: str = "Succeeded") -> None:
    """Let the pod that reads the store be made, print these lines and end."""
    plans = "--selector anneal.dev/finetunejob=tune,anneal.dev/stage=plan"
    cluster(f"get configmaps --output json {plans}", {"items": [plan_map()]})
    cluster("create --filename - --output name", "pod/anneal-reader-x\n")
    cluster("logs pod/anneal-reader-x", "\n".join(map(json.dumps, lines)))
    cluster("get pod/anneal-reader-x --output json", {"status": {"phase": phase}})
    cluster("delete pod/anneal-reader-x --wait=false --ignore-not-found", "")


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(anneal, list(arguments), catch_exceptions=False)


def data(*arguments: str) -> Any:
    done = run(*arguments, "--output", "json")
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


def test_status_tells_all_and_one(cluster: Answers) -> None:
    assert [each["name"] for each in data("status")] == ["tune", "serve"]
    assert data("status", "tune")["percent"] == 50
    assert "FineTuneJob tune: Training" in run("status", "tune").output


def test_a_watch_where_nobody_looks_says_a_line_and_ends_with_the_run(cluster: Answers) -> None:
    done = {**STATUS, "phase": "Complete"}
    cluster(f"get {FTJ} --output json", {"items": [job(status=done)]})
    assert run("status", "tune", "--watch").output.splitlines()[0].startswith("FineTuneJob tune Complete 50%")


def test_a_context_and_a_namespace_reach_kubectl(cluster: Answers, tmp_path: Path) -> None:
    run("--context", "far", "-n", "team", "status", "mdep/serve")
    assert calls(tmp_path) == [f"--context far --namespace team get {MDEP} serve --output json"]


@pytest.mark.parametrize(
    ("name", "told"), [("nobody", "no FineTuneJob and no"), ("pod/x", "pod is none of ftj")]
)
def test_what_does_not_exist_is_a_mistake_of_the_caller(cluster: Answers, name: str, told: str) -> None:
    done = run("status", name)
    assert done.exit_code == 64
    assert told in done.stderr


def test_a_name_of_both_kinds_must_say_which(cluster: Answers) -> None:
    both = {**deployment(), "metadata": {**deployment()["metadata"], "name": "tune"}}
    cluster(f"get {MDEP} --output json", {"items": [both]})
    assert "name ftj/tune or mdep/tune" in run("why", "tune").stderr


def test_logs_of_all_pods_are_merged(cluster: Answers) -> None:
    selector = "anneal.dev/finetunejob=tune,anneal.dev/stage=train"
    label = {"anneal.dev/attempt": "1", "batch.kubernetes.io/job-completion-index": ""}
    pods = [{"metadata": {"name": f"p{n}", "labels": {**label, list(label)[1]: str(n)}}} for n in (0, 1)]
    cluster(f"get pods --output json --selector {selector}", {"items": pods})
    cluster("logs p0 --timestamps", "2026-01-01T00:00:01Z one\n2026-01-01T00:00:03Z three\n")
    cluster("logs p1 --timestamps", "2026-01-01T00:00:02Z two\n")
    assert [line.split("| ")[1] for line in run("logs", "tune").output.splitlines()] == [
        "one",
        "two",
        "three",
    ]
    told = run("logs", "tune", "-o", "json").output.splitlines()
    assert json.loads(told[1]) == {"time": "2026-01-01T00:00:02Z", "source": "1/1", "text": "two"}
    cluster(f"get pods --output json --selector {selector.replace('train', 'export')}", {"items": []})
    assert "--stage export: tune has no pod of it now" in run("logs", "tune", "--stage", "export").stderr


def test_a_plot_is_drawn_from_the_store_and_leaves_no_pod(cluster: Answers, tmp_path: Path) -> None:
    reads(cluster, steps())
    assert "learning rate" in run("plot", "tune").output
    assert calls(tmp_path)[-1] == "delete pod/anneal-reader-x --wait=false --ignore-not-found"
    assert set(data("plot", "tune")["losses"]) == {"loss", "write", "read"}


@pytest.mark.slow  # matplotlib takes two seconds to import
def test_a_plot_may_be_a_picture(cluster: Answers, tmp_path: Path) -> None:
    reads(cluster, steps())
    assert run("plot", "tune", "--png", str(tmp_path / "curves.png")).exit_code == 0
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_reader_that_fails_is_removed_and_its_words_are_told(cluster: Answers, tmp_path: Path) -> None:
    reads(cluster, [], phase="Failed")
    done = run("plot", "tune")
    assert done.exit_code == 75
    assert "ReaderFailed" in done.stderr
    assert calls(tmp_path)[-1].startswith("delete pod/anneal-reader-x")


def test_a_reader_that_is_still_starting_is_waited_for(
    cluster: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("anneal_cli.kubectl.time.sleep", waits.append)
    reads(cluster, steps())
    cluster("get pod/anneal-reader-x --output json", {"status": {"phase": "Pending"}})
    cluster("get pod/anneal-reader-x --output json.next", {"status": {"phase": "Succeeded"}})
    assert run("plot", "tune").exit_code == 0
    assert len(waits) == 1


@pytest.mark.parametrize(("looked_at", "bar"), [(Terminal, True), (io.StringIO, False)])
def test_a_terminal_is_shown_what_a_reader_waits_for(
    cluster: Answers, monkeypatch: pytest.MonkeyPatch, looked_at: type[io.StringIO], bar: bool
) -> None:
    seen = looked_at()
    # A bar is drawn ten times a second; here, at once, where the wait would be.
    monkeypatch.setattr("anneal_cli.kubectl.time.sleep", lambda _: None)
    monkeypatch.setenv("TERM", "xterm")
    reads(cluster, steps())
    state = {"state": {"waiting": {"reason": "ContainerCreating"}}}
    cluster(
        "get pod/anneal-reader-x --output json",
        {"status": {"phase": "Pending", "containerStatuses": [state]}},
    )
    cluster("get pod/anneal-reader-x --output json.next", {"status": {"phase": "Succeeded"}})
    monkeypatch.setattr("sys.stderr", seen)
    assert Kubectl().answer({}) == steps()
    assert ("pod/anneal-reader-x: ContainerCreating" in seen.getvalue()) is bar
    assert bar or seen.getvalue() == ""


def test_a_reader_that_cannot_start_is_not_waited_for(cluster: Answers, tmp_path: Path) -> None:
    reads(cluster, [])
    state = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    pod = {"status": {"phase": "Pending", "containerStatuses": [state]}}
    cluster("get pod/anneal-reader-x --output json", pod)
    done = run("plot", "tune")
    assert (done.exit_code, "ImagePullBackOff: no such image" in done.stderr) == (75, True)
    assert calls(tmp_path)[-1].startswith("delete pod/anneal-reader-x")


def test_patience_ends() -> None:
    pod = {"status": {"phase": "Pending", "conditions": [{"message": "0/3 nodes are available"}]}}
    assert stuck(pod, 299) == ""
    assert "300 s: 0/3 nodes are available" in stuck(pod, 300)


def test_a_run_without_steps_says_so(cluster: Answers) -> None:
    reads(cluster, [])
    assert "NoSteps: tune has recorded no step" in run("plot", "tune").stderr


@pytest.mark.slow  # matplotlib takes two seconds to import
def test_a_report_is_written(cluster: Answers, tmp_path: Path) -> None:
    reads(cluster, steps())
    cluster(
        f"get events --output json --field-selector involvedObject.uid={job()['metadata']['uid']}",
        {"items": []},
    )
    written = tmp_path / "report.html"
    assert run("report", "tune", "--to", str(written)).exit_code == 0
    assert "<svg" in written.read_text()


@pytest.mark.slow  # matplotlib takes two seconds to import
def test_a_report_shows_rows_once_there_is_a_data_set(cluster: Answers, tmp_path: Path) -> None:
    dataset = {"uri": f"{HOME}/dataset/0a", "digest": "sha256:0"}
    published = {**STATUS, "artifacts": {"dataset": dataset}}
    cluster(f"get {FTJ} --output json", {"items": [job(status=published)]})
    cluster(
        f"get events --output json --field-selector involvedObject.uid={job()['metadata']['uid']}",
        {"items": []},
    )
    reads(cluster, steps())
    cluster("create --filename - --output name.next", "pod/rows\n")
    cluster("logs pod/rows", "\n".join(map(json.dumps, SAMPLES)))
    cluster("get pod/rows --output json", {"status": {"phase": "Succeeded"}})
    cluster("delete pod/rows --wait=false --ignore-not-found", "")
    assert run("report", "tune", "--to", str(tmp_path / "report.html")).exit_code == 0
    assert "tooShort" in (tmp_path / "report.html").read_text()
    assert calls(tmp_path)[-1] == "delete pod/rows --wait=false --ignore-not-found"


def test_the_story_is_told(cluster: Answers) -> None:
    cluster(
        f"get events --output json --field-selector involvedObject.uid={job()['metadata']['uid']}",
        {"items": []},
    )
    assert data("why", "tune")["phase"] == "Training"
    assert "attempt 1 began" in run("why", "tune").output


def test_a_lineage_is_read_from_the_store(cluster: Answers) -> None:
    adapter = told("adapter", "a", base="sha256:base")
    ref = {"uri": adapter["uri"], "digest": adapter["digest"]}
    cluster(f"get {FTJ} --output json", {"items": [job(status={"artifacts": {"adapter": ref}})]})
    reads(cluster, [adapter])
    assert data("lineage", "tune")[0]["inputs"][0]["digest"] == "sha256:base"
    assert "base  sha256:base" in run("lineage", "tune").output


def test_garbage_is_listed_and_removed_only_when_told_to(cluster: Answers, tmp_path: Path) -> None:
    stale = told("adapter", "stale", uid="nobody")
    reads(cluster, [stale, told("adapter", "own")])
    cluster("get configmaps --output json", {"items": []})
    assert data("gc", "tune")["artifacts"] == [stale["uri"]]
    assert len([call for call in calls(tmp_path) if call.startswith("create")]) == 1
    assert "removed" in run("gc", "tune", "--yes").output
    assert len([call for call in calls(tmp_path) if call.startswith("create")]) == 3
    pods = [json.loads(line) for line in (tmp_path / "stdin").read_text().splitlines()]
    assert pods[-1]["spec"]["containers"][0]["command"][4:] == ["remove", HOME, stale["uri"]]


def test_two_runs_are_compared(cluster: Answers) -> None:
    cluster(f"get {FTJ} tune --output json", job())
    cluster(f"get {FTJ} other --output json", job("other", adapter={"rank": 8}))
    assert data("diff", "tune", "ftj/other")["spec"] == [{"field": "adapter.rank", "first": 16, "second": 8}]
    assert "adapter.rank" in run("diff", "tune", "other").output


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 30,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
}


@pytest.mark.parametrize(("gib", "code", "verdict"), [(16, 0, "fits"), (0.5, 64, "does not fit")])
def test_a_plan_needs_no_cluster(
    cluster: Answers, tmp_path: Path, gib: float, code: int, verdict: str
) -> None:
    profile = {"accelerators": [{"name": "cpu", "memoryGib": gib}]}
    files = {"job.yaml": job(), "config.json": CONFIG, "values.yaml": profile}
    for name, content in files.items():
        (tmp_path / name).write_text(yaml.safe_dump(content))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    options = ["-f", str(tmp_path / "job.yaml"), "--config", str(tmp_path / "config.json")]
    done = run("plan", *options, "--values", str(tmp_path / "values.yaml"))
    assert (done.exit_code, f"{verdict}: runtime" in done.output) == (code, True)
    assert not (tmp_path / "calls").exists()
    operators = "--selector app.kubernetes.io/name=anneal,app.kubernetes.io/component=operator"
    settings = {"items": [{"data": {"config.yaml": yaml.safe_dump(profile)}}]}
    cluster(f"get configmaps --output json --all-namespaces {operators}", settings)
    assert run("plan", *options).exit_code == code


def test_every_command_speaks_json_but_the_one_that_writes_a_page() -> None:
    options = {name: {o for p in each.params for o in p.opts} for name, each in anneal.commands.items()}
    assert len(options) > 8
    assert [name for name, known in options.items() if "--output" not in known] == ["report"]


def test_names_and_commands_are_completed(cluster: Answers) -> None:
    assert [each.split("\t")[0] for each in completion.suggestions(["l"])] == ["lineage", "logs"]
    assert completion.suggestions(["why", ""]) == ["serve", "tune"]
    assert completion.suggestions(["diff", "tune", "se"]) == ["serve"]


def test_no_cluster_no_suggestions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert completion.suggestions(["why", ""]) == []


def probed(cluster: Answers, found: str) -> None:
    """Let an operator be there, the probe's objects be made, and its caller find something."""
    pod = {"containers": [{"image": "anneal/operator:1"}], "imagePullSecrets": [{"name": "pull"}]}
    selector = "--selector app.kubernetes.io/name=anneal,app.kubernetes.io/component=operator"
    operators = {"items": [{"spec": {"template": {"spec": pod}}}]}
    cluster(f"get deployments --output json --all-namespaces {selector}", operators)
    made = "networkpolicy.networking.k8s.io/p\npod/p\n"
    cluster("create --filename - --output name", made)
    cluster("create --filename - --output name.next", "pod/caller\n")
    cluster("get pod/p --output json", {"status": {"phase": "Running", "podIP": "10.0.0.9"}})
    cluster("get pod/caller --output json", {"status": {"phase": "Succeeded"}})
    cluster("logs pod/caller", json.dumps({"policies": found}))
    cluster("delete pod/caller --wait=false --ignore-not-found", "")
    cluster("delete networkpolicy.networking.k8s.io/p pod/p --wait=false --ignore-not-found", "")


@pytest.mark.parametrize(("found", "code"), [("enforced", 0), ("ignored", 1), ("unknown", 75)])
def test_policies_are_tried_and_nothing_is_left(
    cluster: Answers, tmp_path: Path, found: str, code: int
) -> None:
    probed(cluster, found)
    done = run("policies", "-o", "json")
    assert done.exit_code == code
    assert done.stdout == (f'{{"policies": "{found}"}}\n' if code != 75 else "")
    made = (tmp_path / "stdin").read_text()
    assert (
        made.count('"image": "anneal/operator:1"')
        == made.count('"imagePullSecrets": [{"name": "pull"}]')
        == 2
    )
    assert '"ask", "10.0.0.9"' in made
    assert [call.split()[:2] for call in calls(tmp_path)][-2:] == [
        ["delete", "pod/caller"],
        ["delete", "networkpolicy.networking.k8s.io/p"],
    ]


def test_policies_need_an_image(cluster: Answers) -> None:
    selector = "--selector app.kubernetes.io/name=anneal,app.kubernetes.io/component=operator"
    cluster(f"get deployments --output json --all-namespaces {selector}", {"items": []})
    done = run("policies")
    assert done.exit_code == 64
    assert "--image" in done.stderr
