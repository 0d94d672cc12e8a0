"""Inspection and preparation on real files: what is refused, what is counted, what never straddles."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anneal_api.finetunejob import Split as Shares
from anneal_runtime.errors import Refused
from anneal_trainers import base_model, dataset, prepare
from anneal_trainers.formats import Row
from anneal_trainers.prepare import part_of
from anneal_trainers.tuned import dataset_folder


def test_the_dataset_holds_every_row_once_with_its_tokens(make_run: Any) -> None:
    run = make_run()
    prepare.prepare(run)
    folder = dataset_folder(run)
    splits = [dataset.open_split(folder, name) for name in dataset.SPLITS]
    assert sum(len(split) for split in splits) == 80
    assert dataset.task_names(folder) == ["sums", "words"]
    train = splits[0]
    assert train.tokens.dtype == np.uint16
    assert train.targets.min() > 0
    ids, learned = train.row(0)
    assert len(ids) == train.lengths[0]
    assert not learned[0]
    counts = json.loads((folder / "rows.json").read_text())["tasks"]
    assert counts[0]["rows"]["train"] == int((train.tasks == 0).sum())


def test_parts_are_disjoint_by_content_and_by_group(make_run: Any) -> None:
    run = make_run()
    prepare.prepare(run)
    parts = [dataset.open_split(dataset_folder(run), name).digests for name in dataset.SPLITS]
    seen = [{row.tobytes() for row in part} for part in parts]
    assert all(seen)
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


def test_ids_that_two_parts_would_hold_stay_in_the_first_alone(make_run: Any, tmp_path: Path) -> None:
    """Groups tear identical rows apart, and so does truncation of rows that begin alike."""
    rows = [{"text": "the same words again and again", "group": f"g{i}"} for i in range(40)]
    rows += [{"text": "begins alike " * 20 + str(i)} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = {"train": 34, "validation": 33, "test": 33}
    task = {"name": "t", "data": {"uri": f"file://{tmp_path}/rows.jsonl"}}
    run = make_run(tasks=[task], data={"maxLength": 32, "split": split})
    prepare.prepare(run)
    folder = dataset_folder(run)
    assert [len(set(map(bytes, dataset.open_split(folder, n).digests))) for n in dataset.SPLITS] == [2, 0, 0]
    (count,) = json.loads((folder / "rows.json").read_text())["tasks"]
    train = dataset.open_split(folder, "train")
    assert count["rows"] == {"train": len(train), "validation": 0, "test": 0}
    assert count["tokens"] == {"train": len(train.tokens), "validation": 0, "test": 0}
    assert count["dropped"] == {"inAnotherPart": 80 - len(train)}


def test_identical_rows_and_rows_of_one_group_share_a_part() -> None:
    shares = Shares(train=34, validation=33, test=33)
    rows = [Row((("user", "q"), ("assistant", str(i)))) for i in range(300)]
    assert {part_of(row, shares) for row in rows} == set(dataset.SPLITS)
    assert [part_of(row, shares) for row in rows] == [part_of(Row(row.messages), shares) for row in rows]
    assert len({part_of(Row((), str(i), "module"), shares) for i in range(300)}) == 1


def test_a_second_preparation_publishes_the_same(make_run: Any, tmp_path: Path) -> None:
    first = prepare.prepare(make_run())
    other = prepare.prepare(make_run(output={"uri": f"file://{tmp_path}/elsewhere"}))
    assert first.artifact.digest == other.artifact.digest


def test_over_length_rows_are_counted_and_none_left_is_refused(make_run: Any) -> None:
    split = {"train": 60, "validation": 20, "test": 20}
    run = make_run(data={"maxLength": 18, "overLength": "drop", "split": split})
    with pytest.raises(Refused, match=r"task sums: no row is left .*over length 40.*maxLength") as caught:
        prepare.prepare(run)
    assert caught.value.reason == "NoTrainingRows"


@pytest.mark.parametrize(
    ("changes", "reason", "told"),
    [
        ({"baseModel": {"uri": "file:///nowhere"}}, "ModelNotFound", "file:///nowhere does not exist"),
        ({"data": {"maxLength": 4096}}, "MaxLengthTooLong", "4096 exceeds the model's 512"),
        ({"adapter": {"targets": ["wq"]}}, "UnknownTarget", "wq: choose among q_proj"),
        ({"queueName": "q"}, "NotImplemented", "spec.queueName"),
        ({"tasks": [{"name": "t", "data": {"uri": "file:///no"}}]}, "DatasetNotFound", "file:///no"),
    ],
)
def test_inspection_refuses_what_cannot_work(make_run: Any, changes: Any, reason: str, told: str) -> None:
    with pytest.raises(Refused, match=told) as caught:
        make_run(**changes)
    assert caught.value.reason == reason


def test_an_unknown_family_is_refused_by_name() -> None:
    with pytest.raises(Refused, match="MambaForCausalLM"):
        base_model.shape_of({"architectures": ["MambaForCausalLM"]})


def test_inspection_counts_rows_and_finds_what_is_published(make_run: Any) -> None:
    run = make_run()
    assert [task.rows for task in run.inspection.tasks] == [40, 40]
    assert run.inspection.shape.hidden == 128
    assert run.inspection.published == {}
    ref = prepare.prepare(run).artifact
    assert make_run().inspection.published == {"prepare": ref}


def test_inspection_never_imports_torch() -> None:
    code = "import sys, anneal_trainers.inspect_stage; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
