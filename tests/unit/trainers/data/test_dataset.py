"""Units stay whole: written side by side, described alike, dropped together."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from anneal_runtime.chat import Encoded
from anneal_trainers.data import dataset
from anneal_trainers.data.dataset import (
    Dropped,
    Origin,
    SplitWriter,
    added_tokens,
    open_split,
    task_names,
    token_type,
)


def row(*ids: int) -> Encoded:
    return Encoded([*ids], [True] * len(ids))


def digest(number: int) -> bytes:
    return bytes([number] * 32)


@pytest.fixture
def writer() -> SplitWriter:
    """Three units: one row, then two pieces of another task, then one row again."""
    made = SplitWriter(np.uint16)
    made.add([row(1, 2, 3)], 0, [digest(1)], 0.5)
    made.add([row(4, 5), row(6, 7, 8, 9)], 1, [digest(2), digest(3)], 7.0)
    made.add([Encoded([10, 11, 12], [False, False, True])], 0, [digest(4)], 0.25)
    return made


def test_a_split_knows_its_units_when_it_is_read_again(writer: SplitWriter, tmp_path: Path) -> None:
    writer.write(tmp_path, "train")
    split = open_split(tmp_path, "train")
    assert split.units.tolist() == [0, 1, 3, 4]
    assert split.unit_of.tolist() == [0, 1, 1, 2]
    assert split.tasks.tolist() == [0, 1, 1, 0]
    assert split.unit_tasks.tolist() == [0, 1, 0]
    assert split.unit_lengths.tolist() == [3, 6, 3]
    assert split.difficulty.tolist() == [0.5, 7.0, 0.25]
    assert split.lengths.tolist() == [3, 2, 4, 3]
    assert [split.row(index)[0].tolist() for index in range(4)] == [
        [1, 2, 3],
        [4, 5],
        [6, 7, 8, 9],
        [10, 11, 12],
    ]


def test_the_tokens_of_a_dataset_are_mapped_and_not_read(tmp_path: Path) -> None:
    """A rank holds no copy of what all of them read."""
    made = SplitWriter(np.uint16)
    for number in range(3):
        made.add([row(*range(2000))], 0, [digest(number)], None)
    made.write(tmp_path, "train")
    split = open_split(tmp_path, "train")
    for array in (split.tokens, split.learned):
        assert isinstance(array, np.memmap)
        assert array.mode == "r"
    assert split.tokens.dtype == np.uint16


def test_a_rows_first_token_is_never_learned(writer: SplitWriter) -> None:
    split = writer.split()
    assert split.targets.tolist() == [2, 1, 3, 1]
    assert not any(split.row(index)[1][0] for index in range(len(split)))


def test_a_task_with_an_unrated_unit_is_as_difficult_as_it_is_long(writer: SplitWriter) -> None:
    writer.add([row(1, 2), row(3, 4, 5)], 1, [digest(5), digest(6)], None)
    split = writer.split()
    assert split.difficulty.tolist() == [0.5, 1 + 3, 0.25, 1 + 2]
    assert split.difficulty.dtype == np.float32


def test_one_known_row_drops_its_whole_unit(writer: SplitWriter) -> None:
    assert writer.drop({digest(3)}) == [Dropped(task=1, rows=2, tokens=6)]
    assert writer.digests == {digest(1), digest(4)}
    assert writer.split().units.tolist() == [0, 1, 2]


def test_a_split_without_rows_is_a_split(tmp_path: Path) -> None:
    SplitWriter(np.uint32).write(tmp_path, "test")
    split = open_split(tmp_path, "test")
    assert len(split) == 0
    assert [len(part) for part in (split.unit_of, split.unit_tasks, split.unit_lengths, split.targets)] == [
        0
    ] * 4
    assert split.units.tolist() == [0]


@pytest.mark.parametrize(
    ("vocabulary", "added", "expected"),
    [
        (1 << 16, {}, np.uint16),
        ((1 << 16) + 1, {}, np.uint32),
        (1 << 16, {"<|gap|>": (1 << 16) - 1}, np.uint16),
        (1 << 16, {"<|gap|>": 1 << 16}, np.uint32),
    ],
)
def test_ids_take_the_smallest_type_that_holds_them(
    vocabulary: int, added: dict[str, int], expected: type
) -> None:
    assert token_type(vocabulary, added) is expected


def test_what_is_told_of_the_rows_can_be_read_again(tmp_path: Path) -> None:
    told = {"tasks": [{"name": "b"}, {"name": "a"}], "addedTokens": {"<|gap|>": 7}}
    (tmp_path / "rows.json").write_text(json.dumps(told))
    assert task_names(tmp_path) == ["b", "a"]
    assert added_tokens(tmp_path) == {"<|gap|>": 7}


def test_the_files_are_those_that_numpy_would_save_whatever_was_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens are copied in blocks, and what left in between is jumped over; later units go on behind."""
    monkeypatch.setattr(dataset, "_BLOCK", 4)
    made = SplitWriter(np.uint16)
    for number in range(40):
        made.add([row(*range(number, 2 * number + 1))], 0, [digest(number)], None)
    made.drop({digest(number) for number in (0, 7, 8, 39)})
    assert len(made.split().tokens) == sum(k + 1 for k in range(40) if k not in (0, 7, 8, 39))
    made.add([row(1, 2)], 0, [digest(50)], None)
    made.write(tmp_path, "train")
    expected = [n for k in range(40) if k not in (0, 7, 8, 39) for n in range(k, 2 * k + 1)] + [1, 2]
    np.save(tmp_path / "expected.npy", np.asarray(expected, np.uint16))
    assert (tmp_path / "train.tokens.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()


def test_memory_does_not_grow_with_the_tokens_of_a_split(tmp_path: Path) -> None:
    tokens = np.zeros(1 << 20, np.uint16)
    made = SplitWriter(np.uint16)
    tracemalloc.start()
    try:
        for number in range(16):
            made.append(tokens, tokens.astype(np.uint8), [1 << 20], 0, [digest(number)], None, Origin())
        made.write(tmp_path, "train")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "train.tokens.npy").stat().st_size > 16 * tokens.nbytes
    assert peak < 6 * tokens.nbytes
