"""However many shards there are and however often one is killed, the data set is the same bytes; damage is always told."""

import gzip
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anneal_api.artifacts import MANIFEST
from anneal_api.outcome import PublishResult
from anneal_api.runs import FineTuneRun
from anneal_runtime.errors import Refused
from anneal_trainers import prepare, shard
from anneal_trainers.data import readers

SHARES = {"train": 60, "validation": 20, "test": 20}
DATA: dict[str, Any] = {"maxLength": 64, "overLength": "split", "wrongRows": "drop", "split": SHARES}


def words(seed: int, changed: int = 0) -> str:
    """Return 60 words that depend on `seed`, of which the first few may be others."""
    drawn = [f"w{number}" for number in random.Random(seed).sample(range(1000), 60)]
    return " ".join([f"new{place}" for place in range(changed)] + drawn[changed:])


@pytest.fixture
def tasks(tmp_path: Path) -> list[dict[str, Any]]:
    """Two tasks: rows in five files with duplicates among them and wrong ones, and files of code."""
    rows, code = tmp_path / "rows", tmp_path / "code"
    rows.mkdir()
    code.mkdir()
    for number in range(5):  # the last file is longer than a shard
        texts = [words(seed, number) for seed in range(number, number + 6)] + [words(0)]
        lines = [json.dumps({"text": text, "group": f"g{number}"}) for text in texts] + ["{"]
        lines += ["", *(json.dumps({"text": words(seed)}) for seed in range(100, 130))] * (number == 4)
        (rows / f"{number}.jsonl").write_text("\n".join(lines) + "\n")
    for number in range(6):
        (code / f"{number}.py").write_text(f"# mail person{number}@some.org\n{words(50 + number // 2)}\n")
    (code / "broken.py").write_bytes(b"\xff\n")
    return [
        {"name": "rows", "data": {"uri": f"file://{rows}"}},
        {
            "name": "code",
            "data": {"uri": f"file://{code}", "format": "code"},
            "fim": {"rate": 0.5, "tokens": "added"},
        },
    ]


def folder_of(made: PublishResult) -> Path:
    return Path(made.artifact.uri.removeprefix("file://"))


def in_shards(run: FineTuneRun, count: int) -> FineTuneRun:
    return run.model_copy(update={"inspection": prepare.inspection(run).model_copy(update={"shards": count})})


@pytest.mark.parametrize(
    "dedup",
    [pytest.param("none", marks=pytest.mark.slow), pytest.param("exact", marks=pytest.mark.slow), "near"],
)
def test_the_number_of_shards_changes_no_byte(
    make_run: Any, tasks: Any, tmp_path: Path, dedup: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for count in (1, 3, 7):
        data = DATA | {"dedup": dedup, "filters": {"personalData": "redact"}}
        store = tmp_path / f"store-{count}"
        run = in_shards(make_run(tasks=tasks, data=data, output={"uri": f"file://{store}"}), count)
        for number in range(count if count > 1 else 0):
            monkeypatch.setenv("JOB_COMPLETION_INDEX", str(number))
            shard.shard(run)
        made = prepare.prepare(run)
        found.append(made.artifact.digest)
        assert [path.name for path in (store / "demo").iterdir() if any(path.iterdir())] == ["dataset"]
    assert found[0] == found[1]
    report = json.loads((folder_of(made) / "report.json").read_text())
    assert [task["read"] for task in report["tasks"]] == [70, 7]
    assert report["tasks"][0]["dropped"]["wrongRow"] == 5
    check_trace(folder_of(made), report["tasks"])


def check_trace(folder: Path, tasks: list[dict[str, Any]]) -> None:
    """Hold the trace against the counts: every place that was read is a unit of some part, or one line that says why not."""
    lines = [json.loads(line) for line in (folder / "dropped.jsonl").read_text().splitlines()]
    places = [(line["task"], line["file"], line["line"]) for line in lines]
    assert len(set(places)) == len(places)
    for task in tasks:
        reasons = Counter(line["reason"] for line in lines if line["task"] == task["name"])
        assert reasons == task["dropped"]
        assert task["read"] == sum(task["units"].values()) + reasons.total()


def test_a_shard_that_is_missing_or_saw_other_files_is_refused(
    make_run: Any, tasks: Any, tmp_path: Path
) -> None:
    run = in_shards(make_run(tasks=tasks, data=DATA), 2)
    first = prepare.shard(run, 0)
    assert prepare.shard(run, 0) == first
    with pytest.raises(Refused) as caught:
        prepare.prepare(run)
    assert caught.value.reason == "NotPublished"
    (tmp_path / "code" / "new.py").write_text("x = 1\n")
    prepare.shard(run, 1)
    with pytest.raises(Refused, match=r"spec.tasks\[\].data.uri: the files there changed") as caught:
        prepare.prepare(run)
    assert caught.value.reason == "DataChanged"


def test_of_two_runs_of_one_key_the_later_takes_what_the_first_has_published(
    make_run: Any, tasks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (in_shards(make_run(uid=uid, tasks=tasks, data=DATA), 2) for uid in ("first", "second"))
    for number in range(2):
        prepare.shard(first, number)
    real, done = prepare.open_artifact, []

    def overtaken(*arguments: Any) -> Any:
        if not done:
            done.append(None)
            done.append(prepare.prepare(first))
        return real(*arguments)

    monkeypatch.setattr(prepare, "open_artifact", overtaken)
    assert prepare.prepare(second) == done[1]
    assert prepare.shard(second, 0) == done[1]


def killed_at(call: int, work: Callable[[], object]) -> bool:
    """Do `work` in a child that is killed with signal 9 at its n-th call of a function; return whether it was."""
    child = os.fork()
    if child == 0:
        left = [call]

        def watch(frame: Any, event: str, argument: Any) -> None:
            left[0] -= event == "call"
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(watch)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def calls(work: Callable[[], object]) -> int:
    """Return how many functions `work` calls."""
    seen = [0]

    def watch(frame: Any, event: str, argument: Any) -> None:
        seen[0] += event == "call"

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    return seen[0]


@pytest.mark.slow
def test_a_shard_killed_at_any_moment_is_made_again_with_the_same_bytes(
    make_run: Any, tasks: Any, tmp_path: Path
) -> None:
    """Nothing or the whole lies in the store after each kill, and the next pod needs no cleaning up."""
    rng = random.Random(7)
    data = DATA | {"dedup": "near"}
    quiet, killed = (
        in_shards(make_run(tasks=tasks, data=data, output={"uri": f"file://{tmp_path}/{name}"}), 2)
        for name in ("quiet", "killed")
    )
    works: list[Callable[[FineTuneRun], Any]] = [
        lambda run: prepare.shard(run, 0),
        lambda run: prepare.shard(run, 1),
        prepare.prepare,
    ]
    kills = 0
    for work in works:
        total = calls(lambda work=work: work(quiet))  # type: ignore[misc]
        for point in [*(rng.randrange(1, total) for _ in range(8)), total - 60]:
            kills += killed_at(point, lambda work=work: work(killed))  # type: ignore[misc]
            for manifest in (tmp_path / "killed" / "demo").glob(f"*/*/{MANIFEST}"):
                same = tmp_path / "quiet" / manifest.relative_to(tmp_path / "killed")
                assert not same.exists() or manifest.read_bytes() == same.read_bytes()
        assert work(killed).artifact.digest == work(quiet).artifact.digest
    assert kills > 20


@pytest.mark.slow
def test_a_line_of_two_gigabytes_goes_through_shards_and_is_told_once(make_run: Any, tmp_path: Path) -> None:
    """Its zeros take no room on disk; the middle one of three shards lies within it."""
    good = "".join(json.dumps({"text": f"the good row number {n}"}) + "\n" for n in range(20)).encode()
    with (tmp_path / "rows.jsonl").open("wb") as stream:
        stream.write(good)
        stream.seek(2 << 30, os.SEEK_CUR)
        stream.write(b"\n" + good)
    run = make_run(tasks=[{"name": "t", "data": {"uri": f"file://{tmp_path}/rows.jsonl"}}], data=DATA)
    assert prepare.inspection(run).shards == 2
    run = in_shards(run, 3)
    made = [prepare.shard(run, number) for number in range(3)]
    counts = [len((folder_of(each) / "records.jsonl").read_text().splitlines()) for each in made]
    assert counts == [21, 0, 20]
    folder = folder_of(prepare.prepare(run))
    (line,) = [line for line in (folder / "dropped.jsonl").read_text().splitlines() if "wrongRow" in line]
    assert (json.loads(line)["line"], "at most" in line) == (21, True)
    (task,) = json.loads((folder / "report.json").read_text())["tasks"]
    assert task["read"] == 41


def test_damage_of_every_kind_is_told_by_the_shard_that_meets_it(
    make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "LINE_LIMIT", 4096)
    monkeypatch.setattr(readers, "_CHUNK", 512)
    folder = tmp_path / "rows"
    folder.mkdir()
    good = "".join(json.dumps({"text": f"the good row number {n}"}) + "\n" for n in range(20)).encode()
    bad = {
        "encoding": b'{"text": "\xff\xfe"}',
        "null": b'{"text": "a\0b"}',
        "deep": b"[" * 3000,
        "deep-object": b'{"text": ' * 400 + b"1" + b"}" * 400,
        "long": b'{"text": "' + b"x" * 100_000 + b'"}',
        "integer": b'{"text": ' + b"9" * 3000 + b"}",
        "half": b'{"text": "',
        "surrogate": b'{"text": "\\ud800"}',
    }
    for name, line in bad.items():
        (folder / f"{name}.jsonl").write_bytes(good + line + b"\n" + good)
    packed = gzip.compress(good * 50, mtime=0)
    (folder / "truncated.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    run = make_run(tasks=[{"name": "t", "data": {"uri": f"file://{folder}"}}], data=DATA)
    run = in_shards(run, 3)
    for number in range(3):
        prepare.shard(run, number)
    made = prepare.prepare(run)
    lines = [json.loads(line) for line in (folder_of(made) / "dropped.jsonl").read_text().splitlines()]
    wrong = {(line["file"], line["line"]) for line in lines if line["reason"] == "wrongRow"}
    assert {(f"{name}.jsonl", 21) for name in bad} < wrong
    assert len(wrong) == len(bad) + 1
    assert any(file == "truncated.jsonl.gz" for file, _ in wrong)
