"""Files are divided by size into neighbours, none twice and none forgotten; a record is read as it was written."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from anneal_trainers.data import shards
from anneal_trainers.data.duplicates import Marks
from anneal_trainers.data.shards import Record
from anneal_trainers.data.units import UnitFacts


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([], 1), ([10] * 9, 1), ([1 << 30] * 5, 5), ([1 << 40], 1), ([1 << 32] * 100, 64), ([1 << 31] * 2, 2)],
)
def test_there_is_a_shard_for_each_gigabyte_and_none_without_a_file(sizes: list[int], expected: int) -> None:
    assert shards.count(sizes) == expected


@given(some.lists(some.integers(0, 1000), max_size=40), some.integers(1, 12))
def test_every_file_is_in_one_shard_and_the_order_is_kept(sizes: list[int], of: int) -> None:
    places = list(range(len(sizes)))
    parts = [places[shards.divided(sizes, number, of)] for number in range(of)]
    assert [place for part in parts for place in part] == places


@given(some.lists(some.integers(1, 100), min_size=8, max_size=60), some.integers(2, 6))
def test_no_shard_has_more_than_its_share_and_one_file(sizes: list[int], of: int) -> None:
    shares = [sum(sizes[shards.divided(sizes, number, of)]) for number in range(of)]
    assert max(shares) <= sum(sizes) / of + max(sizes)


@pytest.mark.parametrize(
    "values",
    [
        {"reason": "wrongRow", "detail": "expected UTF-8"},
        {"marks": Marks(b"a" * 32, b"b" * 32, None), "document": 0, "before": "x", "after": ""},
        {
            "marks": Marks(b"a" * 32, b"b" * 32, b"c" * 32),
            "personal": {"email": 2},
            "hit": {"suite": "s", "problem": "p", "shared": "", "score": 0.5, "defines": ""},
            "difficulty": 0.0,
            "unit": UnitFacts((3, 4), True, 1, "", "psm"),
        },
    ],
)
def test_a_record_is_read_as_it_was_written(values: dict[str, Any]) -> None:
    record = Record(1, "é.jsonl", 0, **values)
    line = record.dump()
    assert line.count("\n") == 1
    assert Record.parse(line) == record
