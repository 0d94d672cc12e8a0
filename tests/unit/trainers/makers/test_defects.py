"""A defect is one change of the tree, wherever it stands, and repairing it gives the function back."""

import ast
from pathlib import Path

import pytest

from anneal_trainers.corpus import near
from anneal_trainers.data.formats import Row
from anneal_trainers.makers import defects, python


def every(source: str) -> set[str]:
    """Return all defects that a source is given, over many digests."""
    found = (defects.injected(source, bytes([number])) for number in range(200))
    return {each for each in found if each}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = a < b", {"x = a <= b"}),
        ("x = (a) == (b)", {"x = (a) != (b)"}),
        ("x = a not in b", {"x = a in b"}),
        ("x = a is b", {"x = a is not b"}),
        ("x = a and b", {"x = a or b"}),
        ("x = not a", {"x = a"}),
        ("x = 'é' + b", {"x = 'é' - b"}),
        ("x = True", {"x = False"}),
        ("x = 7", {"x = 8"}),
        ("x = a - 1", {"x = a + 1", "x = a - 2"}),
        ("x = f'{a + b}'", set()),
        ("def f(a: 'int' = g) -> b < c: pass", set()),
        ("x = a", set()),
        ("x = (", set()),
    ],
)
def test_operators_and_constants_are_changed(source: str, expected: set[str]) -> None:
    assert every(source) == expected


def test_a_real_file_is_broken_in_one_place_and_repaired() -> None:
    text = Path(near.__file__).read_text()
    rows = list(defects.repairs([Row((), text, path="near.py", language="python")]))
    assert len(rows) > 5
    for row in rows:
        wrong = row["instruction"].split("\n\n", 1)[1]
        assert ast.dump(ast.parse(wrong)) != ast.dump(ast.parse(row["output"]))
        changed = [
            pair
            for pair in zip(wrong.splitlines(), row["output"].splitlines(), strict=True)
            if pair[0] != pair[1]
        ]
        assert len(changed) == 1
    verdicts = list(defects.verdicts([Row((), text, path="near.py", language="python")]))
    sources = {function.source for function in python.functions("near.py", text)}
    for row in verdicts:
        assert (row["instruction"].split("\n\n", 1)[1] in sources) == (row["output"] == "no")
    assert {row["output"] for row in verdicts} == {"yes", "no"}
