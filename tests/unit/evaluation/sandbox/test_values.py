"""What travels between worker and judge arrives as plain values, and only those."""

import datetime
import decimal
import enum
import fractions
import math
import os
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from typing import Any

import pytest

from anneal_evaluation.sandbox import values


def nothing(_: object) -> Any:
    raise AssertionError("it travels")


PLAIN = [
    None, True, 1, -(10**300), 1.5, math.inf, "a\ud800", [1, [2]], (1, (2,)), {1, 2}, frozenset({"a"}),
    {(1, 2): [3], "=": 4}, b"\x00", bytearray(b"a"), 1 + 2j, range(1, 9, 2), deque([1]), decimal.Decimal("1.10"),
    fractions.Fraction(1, 3), datetime.datetime(2026, 1, 2, 3), datetime.date(2026, 1, 2), datetime.time(1, 2),
]  # fmt: skip


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_values_arrive_as_they_are(value: object) -> None:
    found = values.decode(values.encode(value, nothing), nothing)
    assert (found, type(found)) == (value, type(value))


class Colour(enum.StrEnum):
    RED = "red"


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (Colour.RED, "red"),
        (Counter("aab"), {"a": 2, "b": 1}),
        (defaultdict(list, a=[1]), {"a": [1]}),
        (OrderedDict(b=1), {"b": 1}),
        (Pair(1, 2), (1, 2)),
    ],
)
def test_subclasses_arrive_as_what_they_are_made_of(value: object, arrives: object) -> None:
    found = values.decode(values.encode(value, nothing), nothing)
    assert (found, type(found)) == (arrives, type(arrives))


def test_what_is_not_plain_stays_and_its_number_travels() -> None:
    kept: list[object] = []

    def keep(thing: object) -> Any:
        kept.append(thing)
        return values.remote(len(kept) - 1)

    thing = object()
    assert values.decode(values.encode([thing], keep), lambda number: kept[number]) == [thing]


@pytest.mark.parametrize(
    "forged",
    [
        {"=": "set", "of": [[1]]},
        {"=": "type", "of": 1},
        {},
        {"=": "complex", "of": ["a", "b"]},
        {"=": "Decimal", "of": "x"},
    ],
)
def test_forged_values_are_refused(forged: object) -> None:
    with pytest.raises(values.BadMessage):
        values.decode(forged, nothing)


def test_lines_without_the_nonce_are_passed_over() -> None:
    reads, writes = os.pipe()
    os.write(writes, b"noise\nwrong 1\nno end")
    values.Stream(writes, "secret").write({"a": 1})
    os.close(writes)
    stream = values.Stream(reads, "secret")
    assert stream.read() == {"a": 1}
    with pytest.raises(EOFError):
        stream.read()
    os.close(reads)
