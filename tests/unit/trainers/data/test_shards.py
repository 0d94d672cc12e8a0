"""Files are divided by size into neighbours, no line twice and none forgotten; a record is read as it was written."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from anneal_trainers.data import shards
from anneal_trainers.data.duplicates import Marks
from anneal_trainers.data.shards import Record
from anneal_trainers.data.sources import SourceFile
from anneal_trainers.data.units import UnitFacts


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([], 1), ([10] * 9, 1), ([1 << 30] * 5, 5), ([1 << 40], 1), ([1 << 32] * 100, 64), ([1 << 31] * 2, 2)],
)
def test_there_is_a_shard_for_each_gigabyte_and_none_without_a_file(sizes: list[int], expected: int) -> None:
    assert shards.count([SourceFile("x", size) for size in sizes]) == expected


def test_a_large_file_of_lines_is_many_shards() -> None:
    assert shards.count([SourceFile("x", 5 << 30, True), SourceFile("y", 10)]) == 5


FILES = some.lists(some.tuples(some.integers(0, 1000), some.booleans()), max_size=40)


@given(FILES, some.integers(1, 12))
def test_every_byte_is_in_one_shard_and_the_order_is_kept(sizes: list[tuple[int, bool]], of: int) -> None:
    files = [(n, SourceFile(str(n), size, lines)) for n, (size, lines) in enumerate(sizes)]
    parts = [part for number in range(of) for part in shards.share(files, number, of)]
    found: dict[int, int] = {}
    for task, part in parts:
        assert part.begin == found.get(task, 0)
        found[task] = part.size if part.end is None else part.end
    assert list(found.items()) == [(n, size) for n, (size, _) in enumerate(sizes)]


@given(FILES, some.integers(2, 6))
def test_no_shard_has_more_than_its_share_and_one_whole_file(sizes: list[tuple[int, bool]], of: int) -> None:
    files = [(0, SourceFile("x", size, lines)) for size, lines in sizes]
    whole = max((size for size, lines in sizes if not lines), default=0)
    for number in range(of):
        share = shards.share(files, number, of)
        read = sum((file.size if file.end is None else file.end) - file.begin for _, file in share)
        assert read <= sum(size for size, _ in sizes) / of + whole + 1


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
