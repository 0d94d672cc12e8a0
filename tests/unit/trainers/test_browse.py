"""What a store holds is told a line a thing, and only artifacts and runs of it can be taken away."""

import json
from pathlib import Path

import pytest

from anneal_api.artifacts import Producer
from anneal_runtime.artifacts import publishing
from anneal_runtime.errors import Refused
from anneal_trainers import browse
from anneal_trainers.records import ledger
from anneal_trainers.records.ledger import Entry


@pytest.fixture
def home(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store/demo"


def publish(home: str, key: str, inputs: dict[str, str]) -> str:
    store = home.removesuffix("/demo")
    with publishing(store, "demo", "adapter", key, producer=Producer(name="job"), inputs=inputs) as made:
        (made.folder / "weights").write_text("four")
    return made.published.uri


def test_artifacts_and_runs_are_told_and_nobody_elses_folders(
    home: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = publish(home, "one", {"base": "sha256:0"})
    foreign = tmp_path / "store" / "demo" / "adapter" / "foreign" / "manifest.json"
    foreign.parent.mkdir()
    foreign.write_text('{"name": "a web application"}')
    (tmp_path / "store" / "demo" / "runs" / "job-01234567").mkdir(parents=True)
    assert browse.main(["artifacts", home]) == 0
    artifact, run = map(json.loads, capsys.readouterr().out.splitlines())
    assert (artifact["uri"], artifact["bytes"]) == (uri, 4)
    assert artifact["manifest"]["inputs"] == {"base": "sha256:0"}
    assert artifact["digest"].startswith("sha256:")
    assert run == {"run": f"{home}/runs/job-01234567"}


def test_steps_are_told_without_their_rows(home: str) -> None:
    entry = Entry(1, 0, 1e-3, 2.0, 0.5, True, {"a": 2.0}, ["00ff"], 1, 2)
    ledger.write(f"{home}/runs/job-01234567/attempt-1", [entry.line()])
    (step,) = browse.steps(f"{home}/runs/job-01234567")
    assert step["task_losses"] == {"a": 2.0}
    assert "rows" not in step


def test_rows_of_a_data_set_are_told_as_its_report_shows_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = [{"task": "a", "what": "changed", "before": "x", "after": "y"}, {"task": "b", "what": "tooShort"}]
    (tmp_path / "report.json").write_text(json.dumps({"tasks": [], "samples": shown}))
    assert browse.main(["samples", f"file://{tmp_path}"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == shown


def test_only_what_is_named_goes(home: str) -> None:
    gone, stays = publish(home, "one", {}), publish(home, "two", {})
    assert list(browse.remove(home, [gone])) == [{"removed": gone}]
    assert [line["uri"] for line in browse.artifacts(home)] == [stays]


@pytest.mark.parametrize(
    "part", ["adapter", "adapter/..", "adapter/one/weights", "secrets/one", "../other/adapter/one"]
)
def test_nothing_else_can_be_named(home: str, tmp_path: Path, part: str) -> None:
    publish(home, "one", {})
    with pytest.raises(Refused, match="uris: .* is no artifact and no run's folder"):
        list(browse.remove(home, [f"{home}/adapter/one", f"{home}/{part}"]))
    assert len(list(browse.artifacts(home))) == 1
