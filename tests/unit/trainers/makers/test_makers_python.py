"""Pairs, exercises and difficulty of Python functions; the same rows whatever else is there."""

import pytest

from anneal_trainers.data.formats import Row, to_row
from anneal_trainers.makers import pairs, python

SOURCE = '''
class Box:
    def area(self, scale):
        """Return the area of the box, scaled.

        More is said here.
        """
        width = self.width * scale
        return width * self.height

def double(x):
    """Return twice a number.

    >>> double(2)
    4
    >>> for n in (1, 2):
    ...     print(double(n))
    2
    4
    """
    return 2 * x

def bare(x):
    return x
'''
FILE = Row((), SOURCE, path="pkg/a.py", language="python")


def test_every_documented_function_is_found_without_its_docstring() -> None:
    area, double = sorted(python.functions("pkg/a.py", SOURCE), key=lambda each: each.name)
    assert area.source == (
        "def area(self, scale):\n    width = self.width * scale\n    return width * self.height"
    )
    assert area.summary == "Return the area of the box, scaled."
    assert double.source == "def double(x):\n    return 2 * x"


@pytest.mark.parametrize("source", ["def f(:", "x = '\0'", "(" * 5000, "x = " + "-" * 50_000 + "1"])
def test_what_does_not_parse_has_no_functions_and_no_difficulty(source: str) -> None:
    assert list(python.functions("a.py", source)) == []
    assert python.rated(source) == {}


def test_a_docstring_and_its_function_are_asked_for_in_turn() -> None:
    rows = list(pairs.docstrings([FILE, Row((), "text"), Row((), SOURCE, language="go")]))
    assert len(rows) == 4
    described, written = (row for row in rows if "double" in row["instruction"])
    assert described["output"].startswith("Return twice a number.")
    assert described["instruction"].endswith("def double(x):\n    return 2 * x")
    assert written["output"] == "def double(x):\n    return 2 * x"
    assert '"""Return twice' in written["instruction"]
    assert "2 * x" not in written["instruction"]
    row = to_row(written, "pair")
    assert (row.group, row.difficulty) == ("pkg/a.py", written["difficulty"])


def test_an_exercise_has_its_examples_and_not_its_solution() -> None:
    (exercise,) = pairs.exercises([FILE])
    shown = ">>> double(2)\n4\n>>> for n in (1, 2):\n...     print(double(n))\n2\n4"
    assert exercise["instruction"].endswith(f"def double(x):\n\nExamples:\n\n{shown}")
    assert exercise["output"] == "def double(x):\n    return 2 * x"


def test_a_source_is_harder_the_more_it_decides_and_the_deeper_it_nests() -> None:
    flat = "a = 1\nb = 2\nc = 3\nd = 4\n"
    branch = "if a:\n    b = 2\nelse:\n    c = 3\n"
    nested = "for a in b:\n    if a:\n        while c:\n            d = 4\n"
    scores = [python.difficulty(source) for source in (flat, branch, nested)]
    assert scores == sorted(scores)  # type: ignore[type-var]
    assert len(set(scores)) == 3
    assert python.difficulty(nested) == python.difficulty(nested.replace("b", "name"))
