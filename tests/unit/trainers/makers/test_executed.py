"""Answers that were run: what a function returns, tests that tell it from a defective one, and nothing that changes."""

import pytest

from anneal_trainers.data.formats import Row
from anneal_trainers.makers import executed, python

SOURCE = '''
import math
import numpy

def double(x):
    """Return twice a number.

    >>> double(2)
    4
    >>> double("ab")
    'abab'
    """
    y = math.floor(x) if isinstance(x, float) else x
    return y * 2

def shift(numbers: list[int], by: int):
    """Return numbers shifted."""
    low = by - 1
    return [n + low for n in numbers]

def guess(x: int):
    """Return something else each time."""
    import random
    return random.random() + x

def lost(x: int):
    """Need what is not there."""
    y = numpy.zeros(3)
    return y + x

def leave(x: int):
    """End."""
    import os
    os._exit(0)
'''


def document(*names: str) -> list[Row]:
    """Return a file with the imports and the functions of these names."""
    head, *rest = SOURCE.split("\ndef ")
    return [
        Row(
            (),
            "\ndef ".join([head, *(each for each in rest if each.split("(")[0] in names)]),
            path="a.py",
            language="python",
        )
    ]


def test_calls_are_those_of_examples_varied_or_else_of_annotated_types() -> None:
    found = {each.name: executed.calls(each) for each in python.functions("a.py", SOURCE)}
    assert found["double"][:2] == ["double(2)", "double('ab')"]
    assert "double('ba')" in found["double"]
    assert found["shift"][0] == "shift([3, 1, 2], 0)"
    assert len(found["shift"]) == executed.MOST


@pytest.mark.slow
def test_what_calls_return_is_asked_for_both_ways() -> None:
    rows = list(executed.code_io(document("double", "guess", "lost", "leave")))
    assert {row["instruction"].split("\n\n")[1].split("(")[0] for row in rows} == {"def double"}
    assert rows[0]["instruction"].startswith("What does double(2) return")
    assert rows[0]["output"] == "4"
    assert rows[1]["instruction"].startswith("Find a call of this Python function that returns 'abab'")
    assert rows[1]["output"] == "double('ab')"


@pytest.mark.slow
def test_tests_pass_on_the_function_and_fail_on_a_defective_one() -> None:
    (row,) = executed.unit_tests(document("shift", "guess"))
    space: dict[str, object] = {}
    exec(row["instruction"].split("\n\n", 1)[1] + "\n" + row["output"] + "\ntest_shift()", space)
    assert row["output"].startswith("def test_shift():\n    assert shift([3, 1, 2], 0) == [2, 0, 1]")
    wrong = row["instruction"].split("\n\n", 1)[1].replace("by - 1", "by + 1")
    with pytest.raises(AssertionError):
        exec(wrong + "\n" + row["output"] + "\ntest_shift()", {})
