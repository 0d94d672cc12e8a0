"""The quick start's rows are real, deterministic, filled right, and held out by whole modules."""

import json
from pathlib import Path
from typing import Any

import pytest

from anneal_trainers import quickstart

SOURCE = '''
class Box:
    def area(self, scale):
        """Return the area of the box, scaled.

        More is said here.
        """
        width = self.width * scale
        height = self.height * scale

        if width < 0:
            raise ValueError(width)
        return width * height + self.padding * 2

    def short(self):
        """Return nothing."""
        return None
'''


def test_only_documented_functions_of_moderate_length_qualify() -> None:
    (function,) = quickstart.functions_of("boxes", SOURCE)
    assert function.signature == "def area(self, scale):"
    assert function.summary == "Return the area of the box, scaled."
    assert function.body.startswith("    width = self.width")
    assert '"""' not in function.source


def test_a_filled_gap_is_the_function_again() -> None:
    for function in quickstart.functions_of("boxes", SOURCE):
        row: dict[str, Any] = quickstart.tasks([function])["fill"][0]
        gapped = row["instruction"].split("\n\n", 1)[1]
        assert gapped.replace("<gap>", row["output"]) == function.source
        assert row["output"].strip()
        assert row["group"] == "boxes"


def test_the_choice_does_not_depend_on_the_order_of_files() -> None:
    found = [
        f for name in ("a", "b", "c") for f in quickstart.functions_of(name, SOURCE.replace("Box", name))
    ]
    assert quickstart.choose(iter(found)) == quickstart.choose(reversed(found))


def test_the_files_hold_the_rows_of_their_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "boxes.py").write_text(SOURCE)
    monkeypatch.setattr(quickstart.sysconfig, "get_paths", lambda: {"stdlib": f"{tmp_path}/library"})
    assert quickstart.main(["--to", f"file://{tmp_path}/data"]) == 0
    (function,) = quickstart.functions_of("boxes", SOURCE)
    for task, rows in quickstart.tasks([function]).items():
        text = (tmp_path / "data" / f"{task}.jsonl").read_text()
        assert [json.loads(line) for line in text.splitlines()] == rows


@pytest.mark.slow
def test_the_library_gives_a_few_hundred_rows_of_each_task(tmp_path: Path) -> None:
    assert quickstart.main(["--to", f"file://{tmp_path}"]) == 0
    for task in ("describe", "implement", "fill"):
        rows = [json.loads(line) for line in (tmp_path / f"{task}.jsonl").read_text().splitlines()]
        assert 300 <= len(rows) <= quickstart.ROWS
        assert all(row["output"] and row["group"] in row["instruction"] for row in rows)
