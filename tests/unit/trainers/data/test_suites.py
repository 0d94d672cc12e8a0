"""Problems of suites: HumanEval's from its wheel, a user's by path."""

import json
from pathlib import Path

import pytest

from anneal_runtime.errors import Refused
from anneal_trainers.data import suites


def test_humaneval_is_there_with_all_its_problems() -> None:
    found = suites.problems(["humaneval"])
    assert len(found) == 164
    assert (found[0].suite, found[0].name, found[0].entry_point) == (
        "humaneval",
        "HumanEval/0",
        "has_close_elements",
    )
    assert len(found[0].texts) == 2  # the tests are no text of a problem


def test_a_users_problems_keep_their_names(tmp_path: Path) -> None:
    rows = [
        {"task_id": 7, "text": "what to do", "code": "how", "test_list": ["t"]},
        {"prompt": "p", "test": "t"},
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    one, other = suites.problems([f"file://{tmp_path}/own.jsonl"])
    assert (one.suite, one.name, one.texts) == ("own.jsonl", "7", ("what to do", "how"))
    assert (other.name, other.texts) == ("line 2", ("p",))


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"prompt": "a"}\n')
    before = suites.digests([f"file://{path}", "humaneval"])
    path.write_text('{"prompt": "b"}\n')
    after = suites.digests([f"file://{path}", "humaneval"])
    assert before[0] != after[0]
    assert before[1] == after[1]


@pytest.mark.parametrize("content", ["[1]\n", "{\n", '{"test": "t"}\n'])
def test_what_is_no_problem_is_refused_by_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "own.jsonl").write_text('{"prompt": "a"}\n' + content)
    with pytest.raises(Refused, match=r"own.jsonl, line 2: .* give a JSON object with prompt") as caught:
        suites.problems([f"file://{tmp_path}/own.jsonl"])
    assert caught.value.reason == "InvalidSuite"


def test_a_folder_is_no_suite(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no file ending in"):
        suites.problems([f"file://{tmp_path}"])
