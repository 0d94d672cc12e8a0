"""Renamed functions compute what they did: run on the same arguments, and compared name by name."""

import ast
from typing import Any

import pytest

from anneal_trainers.data.formats import Row
from anneal_trainers.makers import renaming

SOURCE = '''
def spread(values, scale=2):
    """Return the spread of values."""
    low = min(values)
    high = max(values)
    total = [v - low for v in values if v != high]
    for place, (a, b) in enumerate(zip(values, total)):
        low += a * b + place
    return low * scale, high, sum(total)
'''


def run(source: str) -> Any:
    space: dict[str, Any] = {}
    exec(source, space)
    return space["spread"](values=[3, 1, 4, 1, 5, 9, 2, 6], scale=3)


def test_local_names_change_and_nothing_else_does() -> None:
    changed = renaming.other_names(SOURCE)
    assert changed is not None
    before, after = ast.parse(SOURCE), ast.parse(changed)
    pairs = {
        (one.id, other.id)
        for one, other in zip(ast.walk(before), ast.walk(after), strict=True)
        if isinstance(one, ast.Name) and isinstance(other, ast.Name)
    }
    renamed = dict(pairs)
    assert len(renamed) == len(pairs) == len(set(renamed.values()))
    kept = {name for name, other in pairs if name == other}
    assert kept == {"values", "scale", "min", "max", "enumerate", "zip", "sum"}
    assert run(changed) == run(SOURCE)
    assert renaming.other_names(SOURCE) == changed


@pytest.mark.parametrize(
    "body",
    [
        "global x\n    x = 1",
        "x = 1\n    return lambda: x",
        "x = 1\n    return locals()",
        "x = 1\n    return f'{x}'",
        "import x",
        "try:\n        pass\n    except E as x:\n        x = 1",
    ],
)
def test_what_others_may_refer_to_keeps_its_name(body: str) -> None:
    assert renaming.other_names(f"def f():\n    {body}\n") is None


def test_only_python_files_with_locals_give_rows() -> None:
    documents = [
        Row((), text, path=name, language=language)
        for name, text, language in (
            ("a.py", SOURCE, "python"),
            ("b.py", "x = 1\n", "python"),
            ("c.go", SOURCE, "go"),
        )
    ]
    (row,) = renaming.renamed(documents)
    assert (row["path"], row["group"], row["language"]) == ("a.py", "a.py", "python")
    assert row["difficulty"] > 0
