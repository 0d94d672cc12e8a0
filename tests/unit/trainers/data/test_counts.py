"""Counts of rows, and the trace of those that left."""

import io
import json

import numpy as np

from anneal_runtime.chat import Encoded
from anneal_trainers.data.counts import SAMPLES, TaskCount, Trace, lengths
from anneal_trainers.data.dataset import Dropped, Origin, Split, SplitName, SplitWriter
from anneal_trainers.data.units import UnitFacts

PLACE = {"file": "a.py", "line": 2}
ORIGIN = Origin("a.py", 2, "python")


def test_what_is_taken_back_is_counted_nowhere() -> None:
    count = TaskCount("t")
    count.see("python")
    count.add(UnitFacts((2,)), "validation", "python")
    count.take_back(Dropped(0, 1, 2, Origin("a.py", 2, "python")), "validation")
    told = count.dump()
    assert (told["read"], told["languages"]) == (
        1,
        {"python": {"read": 1, "kept": 0, "dropped": {}}},
    )
    assert {told[what]["validation"] for what in ("units", "rows", "tokens")} == {0}


def test_a_dropped_row_is_a_line_and_a_count() -> None:
    trace, count = Trace(io.StringIO()), TaskCount("t")
    count.see("python")
    trace.drop(count, "duplicate", ORIGIN, "of b.py:1")
    line, *_ = trace.stream.getvalue().splitlines()  # type: ignore[attr-defined]
    assert json.loads(line) == {"task": "t", **PLACE, "reason": "duplicate", "detail": "of b.py:1"}
    assert count.dropped == {"duplicate": 1}
    trace.drop(count, "wrongRow", Origin("a.jsonl", 1))
    assert count.dump()["languages"]["python"] == {"read": 1, "kept": 0, "dropped": {"duplicate": 1}}


def test_few_samples_are_kept_and_name_nobody() -> None:
    trace, count = Trace(io.StringIO()), TaskCount("t")
    for _ in range(SAMPLES + 2):
        trace.show(count, "changed", PLACE, "ask a@b.org", "ask <EMAIL_1>")
    assert len(trace.samples) == SAMPLES
    assert trace.samples[0]["before"] == "ask <EMAIL_1>"


def test_lengths_are_told_by_task_in_powers_of_two() -> None:
    splits: dict[SplitName, Split] = {}
    for name, sizes in (("train", [1, 16, 17]), ("validation", [32, 33])):
        writer = SplitWriter(np.uint16)
        for size in sizes:
            writer.add([Encoded([1] * size, [True] * size)], size % 2, [bytes(32)], None)
        splits[name] = writer.split()  # type: ignore[index]
    assert lengths(splits, 2) == [{"16": 1, "32": 1}, {"16": 1, "32": 1, "64": 1}]
