"""Files, compressed or not, and folders of them; errors name file and line."""

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from anneal_api.finetunejob import Task
from anneal_runtime.errors import Refused
from anneal_trainers.data import sources

ROW = json.dumps({"text": "hello"}) + "\n"


def task(path: Path, shape: str = "auto") -> Task:
    return Task.model_validate({"name": "t", "data": {"uri": f"file://{path}", "format": shape}})


def test_a_folder_of_all_three_kinds_is_read_in_order_of_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(ROW + "\n" + ROW)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(ROW.encode()))
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(ROW.encode()) * 2)
    (tmp_path / "notes.txt").write_text("not rows")
    places = [(file, number) for file, number, _ in sources.lines(task(tmp_path))]
    assert places == [
        ("a.jsonl", 1),
        ("a.jsonl", 3),
        ("b.jsonl.gz", 1),
        ("c.jsonl.zst", 1),
        ("c.jsonl.zst", 2),
    ]
    assert [row.text for row in sources.rows(task(tmp_path))] == ["hello"] * 5


@pytest.mark.parametrize("content", ["{", '{"other": 1}', "[1]"])
def test_a_wrong_line_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.jsonl").write_text(ROW + content + "\n")
    with pytest.raises(Refused, match=r"task t: x.jsonl, line 2: expected") as caught:
        list(sources.rows(task(tmp_path)))
    assert caught.value.reason == "InvalidRows"


def test_damaged_compression_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(ROW.encode() * 100)[:-20])
    with pytest.raises(Refused, match="cannot be read"):
        list(sources.rows(task(tmp_path)))


def test_a_missing_path_and_a_folder_without_rows_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(Refused) as caught:
            list(sources.rows(task(path)))
        assert caught.value.reason == "DatasetNotFound"
