"""The command writes rows that the prepare stage reads, whole or not at all."""

import io
import json
from pathlib import Path

import pytest

from anneal_api.finetunejob import Data, Task
from anneal_runtime.errors import Refused
from anneal_trainers import make_rows
from anneal_trainers.data import sources

SOURCE = '''def double(x):
    """Return twice a number.

    >>> double(2)
    4
    """
    result = 2 * x
    return result
'''


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    for path, text in {
        "python/double.py": SOURCE,
        "python/use.py": "import python.double\n",
        "go/double.go": "package main\n",
        "broken.py": "def (",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    (folder / "latin.py").write_bytes(b"\xff")
    return folder


@pytest.mark.parametrize("maker", sorted(make_rows.MAKERS))
def test_every_maker_writes_rows_that_are_read(code: Path, tmp_path: Path, maker: str) -> None:
    written = []
    for name in ("one", "two"):
        target = f"file://{tmp_path}/{name}/rows.jsonl"
        assert make_rows.main([maker, "--from", f"file://{code}", "--to", target]) == 0
        written.append((tmp_path / name / "rows.jsonl").read_bytes())
        task = Task.model_validate({"name": "t", "data": {"uri": target}})
        found = list(sources.found(task, Data()))
        assert found
        assert all(place.row for place in found)
    assert written[0] == written[1]
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["rows.jsonl"]


def test_scored_files_are_all_there(code: Path, tmp_path: Path) -> None:
    make_rows.main(["scored", "--from", f"file://{code}", "--to", f"file://{tmp_path}/rows.jsonl"])
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    rated = {row["path"]: "difficulty" in row for row in rows}
    assert rated == {
        "broken.py": False,
        "go/double.go": False,
        "python/double.py": True,
        "python/use.py": True,
    }


def test_nothing_made_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("x = 1\n")
    for target, told in (("rows.jsonl", "NoRows"), ("rows.json", "InvalidUri")):
        with pytest.raises(Refused) as caught:
            make_rows.main(
                ["docstrings", "--from", f"file://{tmp_path}/code", "--to", f"file://{tmp_path}/{target}"]
            )
        assert caught.value.reason == told
    assert [path.name for path in tmp_path.iterdir()] == ["code"]


@pytest.mark.parametrize("looked_at", [True, False])
def test_a_terminal_is_shown_how_far_it_is(
    code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looked_at: bool
) -> None:
    seen = io.StringIO()
    monkeypatch.setattr(seen, "isatty", lambda: looked_at)
    monkeypatch.setattr("sys.stderr", seen)
    assert (
        make_rows.main(["scored", "--from", f"file://{code}", "--to", f"file://{tmp_path}/rows.jsonl"]) == 0
    )
    assert ("4 rows [" in seen.getvalue()) is looked_at
    assert seen.getvalue().endswith("scored: 4 rows\n")
