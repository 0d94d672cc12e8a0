"""Deleting a run takes what it has published and its checkpoints, and nothing of anybody else's."""

from pathlib import Path
from typing import Any

from anneal_api.artifacts import Producer
from anneal_runtime.artifacts import publishing, reference
from anneal_trainers.cleanup import delete


def publish(store: str, key: str, uid: str) -> str:
    producer = Producer(uid=uid)
    with publishing(store, "demo", "adapter", key, producer=producer, inputs={}) as publication:
        (publication.folder / "weights").write_text(key)
    return publication.published.uri


def test_only_the_runs_own_artifacts_and_checkpoints_go(make_run: Any, tmp_path: Path) -> None:
    run = make_run(inspected=False)
    store = run.spec.output.uri
    own, other = publish(store, "own", run.uid), publish(store, "other", "somebody")
    foreign = tmp_path / "store" / "demo" / "adapter" / "foreign" / "manifest.json"
    foreign.parent.mkdir()
    foreign.write_text('{"name": "a web application"}')
    runs = tmp_path / "store" / "demo" / "runs"
    for name in ("job-01234567", "job-89abcdef"):
        (runs / name / "attempt-1").mkdir(parents=True)
    assert delete(run).artifacts == 1
    assert (reference(own), reference(other) is None) == (None, False)
    assert foreign.exists()
    assert [path.name for path in runs.iterdir()] == ["job-89abcdef"]
