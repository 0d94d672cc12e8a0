"""Inspection and preparation on real files: what is refused, what is counted, what never straddles."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anneal_api.finetunejob import Split as Shares
from anneal_runtime.chat import ChatEncoder
from anneal_runtime.errors import Refused
from anneal_trainers import prepare
from anneal_trainers.corpus import near
from anneal_trainers.data import dataset
from anneal_trainers.data.duplicates import marks
from anneal_trainers.data.formats import Row
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
    parts = [part_of(marks(row).own, shares) for row in rows]
    assert set(parts) == set(dataset.SPLITS)
    assert parts == [part_of(marks(Row(row.messages)).own, shares) for row in rows]
    assert len({part_of(marks(Row((), str(i), "module")).own, shares) for i in range(300)}) == 1


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


def test_a_balance_by_validation_losses_without_their_rows_is_refused_before_training(make_run: Any) -> None:
    run = make_run(
        data={"maxLength": 128, "split": {"train": 80, "validation": 0, "test": 20}},
        optimization={"taskBalance": "lossDrop", "maxSteps": 4},
    )
    with pytest.raises(Refused, match="taskBalance: lossDrop .* sums, words has no validation row") as caught:
        prepare.prepare(run)
    assert caught.value.reason == "NoValidationRows"


@pytest.mark.parametrize(
    ("changes", "reason", "told"),
    [
        ({"baseModel": {"uri": "file:///nowhere"}}, "ModelNotFound", "file:///nowhere does not exist"),
        ({"data": {"maxLength": 4096}}, "MaxLengthTooLong", "4096 exceeds the model's 512"),
        (
            {"data": {"maxLength": 128, "decontaminate": ["file:///no.jsonl"]}},
            "NotFound",
            "file:///no.jsonl does not exist",
        ),
        ({"tasks": [{"name": "t", "data": {"uri": "file:///no"}}]}, "DatasetNotFound", "file:///no"),
    ],
)
def test_inspection_refuses_what_cannot_work(make_run: Any, changes: Any, reason: str, told: str) -> None:
    with pytest.raises(Refused, match=told) as caught:
        make_run(**changes)
    assert caught.value.reason == reason


def written(folder: Path, rows: list[dict[str, Any]], **task: Any) -> list[dict[str, Any]]:
    """Write rows and return the spec.tasks that reads them."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [{"name": "t", "data": {"uri": f"file://{folder}/rows.jsonl"}} | task]


SHARES = {"train": 60, "validation": 20, "test": 20}
TEXTS = [{"text": f"the {i}th document of {i * i} words in all, or so it says"} for i in range(60)]
CHATS = [{"prompt": f"question {i}", "answer": f"answer {i}"} for i in range(5)]
PREFERENCES = [
    {"prompt": f"question {i // 2}", "chosen": f"a good answer {i}", "rejected": "x" * (i % 5 + 1)}
    for i in range(60)
]
DPO = {"objective": "dpo", "learningRate": 0.01, "maxSteps": 4}


@pytest.mark.parametrize(
    ("rows", "changes", "reason", "told"),
    [
        (
            PREFERENCES,
            {},
            "PreferenceRows",
            r"spec.tasks\[\].data.format: .* t are preferences .* choose objective dpo",
        ),
        (
            CHATS,
            {"optimization": DPO},
            "NoPreferenceRows",
            r"spec.tasks\[\].data.format: .* spec.optimization.objective dpo",
        ),
        (TEXTS, {"optimization": DPO}, "NoPreferenceRows", "choose objective supervised"),
        (
            CHATS,
            {"fim": {"rate": 0.5, "tokens": "instruction"}},
            "FimOnChats",
            r"spec.tasks\[\].fim: rate 0.5 in t",
        ),
        (
            PREFERENCES,
            {"fim": {"rate": 0.5, "tokens": "instruction"}, "optimization": DPO},
            "FimOnChats",
            r"spec.tasks\[\].fim: rate 0.5 in t, whose rows are chats",
        ),
        (
            TEXTS,
            {"fim": {"rate": 0.5}},
            "FimTokens",
            r"spec.tasks\[\].fim.tokens: auto in task t, and the tokenizer",
        ),
        (TEXTS, {"samplingShare": 0.5}, "InvalidSpec", r"spec.tasks\[\].samplingShare"),
        (
            TEXTS,
            {"stages": [{"name": "s", "tasks": ["u"]}]},
            "InvalidSpec",
            r"spec.stages\[\].tasks: s names u",
        ),
        (
            [*TEXTS, {"text": "t", "difficulty": "hard"}],
            {},
            "InvalidRows",
            "rows.jsonl, line 61: expected difficulty",
        ),
    ],
)
def test_inspection_refuses_rows_and_settings_that_do_not_go_together(
    make_run: Any, tmp_path: Path, rows: Any, changes: Any, reason: str, told: str
) -> None:
    of_task = {name: changes[name] for name in ("fim", "samplingShare") if name in changes}
    of_spec = {name: value for name, value in changes.items() if name not in of_task}
    with pytest.raises(Refused, match=told) as caught:
        make_run(tasks=written(tmp_path, rows, **of_task), **of_spec)
    assert caught.value.reason == reason


def test_preferences_are_pairs_and_a_prompt_is_in_one_part(make_run: Any, tmp_path: Path) -> None:
    same = [{"prompt": "q", "chosen": "same", "rejected": "same"}]
    run = make_run(
        tasks=written(tmp_path, PREFERENCES + same), optimization=DPO, data={"maxLength": 64, "split": SHARES}
    )
    prepare.prepare(run)
    folder, encoder = dataset_folder(run), ChatEncoder.load(dataset_folder(run))
    prompts = []
    for name in dataset.SPLITS:
        split = dataset.open_split(folder, name)
        assert np.diff(split.units).tolist() == [2] * (len(split) // 2)
        texts = [encoder.decode(list(split.row(row)[0])) for row in range(len(split))]
        assert all("good answer" in chosen for chosen in texts[::2])
        assert all("x" in rejected.split("assistant")[1] for rejected in texts[1::2])
        prompts.append({re.findall(r"question \d+", text)[0] for text in texts})
    assert [len(prompts[0] | prompts[1] | prompts[2]), sum(map(len, prompts))] == [30, 30]
    assert all(prompts)
    recorded = json.loads((folder / "rows.json").read_text())
    (count,) = recorded["tasks"]
    assert (sum(count["units"].values()), sum(count["rows"].values())) == (60, 120)
    assert count["dropped"] == {"identicalAnswers": 1}
    assert recorded["objective"] == "dpo"


def test_fim_rows_are_the_same_in_any_order_of_the_rows(make_run: Any, tmp_path: Path) -> None:
    fim = {"rate": 0.5, "tokens": "added", "loss": "middle"}
    found, counts = [], []
    for number, rows in enumerate((TEXTS, TEXTS[::-1])):
        (tmp_path / str(number)).mkdir()
        run = make_run(
            tasks=written(tmp_path / str(number), rows, fim=fim), data={"maxLength": 64, "split": SHARES}
        )
        prepare.prepare(run)
        folder = dataset_folder(run)
        found.append(
            [sorted(map(bytes, dataset.open_split(folder, name).digests)) for name in dataset.SPLITS]
        )
        counts.append(json.loads((folder / "rows.json").read_text())["tasks"])
    assert found[0] == found[1]
    assert counts[0] == counts[1]
    forms = counts[0][0]["forms"]
    assert sum(forms.values()) == 60
    assert set(forms) == {"plain", "psm", "spm"}
    assert dataset.added_tokens(folder) == {
        "<|fim_prefix|>": 512,
        "<|fim_suffix|>": 513,
        "<|fim_middle|>": 514,
    }
    assert ChatEncoder.load(folder).tokenizer.token_to_id("<|fim_middle|>") == 514
    tokens = np.concatenate([dataset.open_split(folder, name).tokens for name in dataset.SPLITS])
    assert [(tokens == number).sum() for number in (512, 513, 514)] == [forms["psm"] + forms["spm"]] * 3


def test_pieces_of_a_row_are_neighbours_and_nothing_is_lost(make_run: Any, tmp_path: Path) -> None:
    texts = [" ".join(f"{row}-{word}" for word in range(row * 3 + 1)) for row in range(30)]
    rows = [{"text": text, "difficulty": row / 2} for row, text in enumerate(texts)]
    data = {"maxLength": 32, "overLength": "split", "split": {"train": 100, "validation": 0, "test": 0}}
    run = make_run(tasks=written(tmp_path, rows), data=data)
    prepare.prepare(run)
    folder = dataset_folder(run)
    encoder, split = ChatEncoder.load(folder), dataset.open_split(folder, "train")
    assert split.difficulty.tolist() == [row / 2 for row in range(30)]
    (count,) = json.loads((folder / "rows.json").read_text())["tasks"]
    assert count["units"]["train"] == 30
    assert count["overLength"] == sum(len(encoder.encode_document(text).ids) > 32 for text in texts)
    for unit, text in enumerate(texts):
        first, last = split.units[unit], split.units[unit + 1]
        assert encoder.decode(split.tokens[split.offsets[first] : split.offsets[last]].tolist()) == text
    assert split.lengths.max() <= 32


def essay(seed: int, changed: int = 0) -> str:
    """Return 60 words that depend on `seed`, of which the first few may be others."""
    words = [f"w{number}" for number in random.Random(seed).sample(range(1000), 60)]
    return " ".join([f"new{place}" for place in range(changed)] + words[changed:])


def test_of_duplicates_one_stays_and_none_straddles_the_split(make_run: Any, tmp_path: Path) -> None:
    rows = [{"text": essay(seed, changed)} for seed in range(12) for changed in range(3)]
    rows += [{"text": essay(0) + "  \n"}]
    other = [{"text": essay(seed, 4)} for seed in range(12)]
    (tmp_path / "other").mkdir()
    tasks = [
        *written(tmp_path, rows),
        {**written(tmp_path / "other", other)[0], "name": "u"},
    ]
    kept, parts = {}, {}
    for dedup in ("none", "exact", "near"):
        data = {"maxLength": 256, "split": {"train": 50, "validation": 25, "test": 25}, "dedup": dedup}
        run = make_run(tasks=tasks, data=data)
        prepare.prepare(run)
        folder = dataset_folder(run)
        counts = json.loads((folder / "rows.json").read_text())["tasks"]
        dropped = [json.loads(line) for line in (folder / "dropped.jsonl").read_text().splitlines()]
        kept[dedup] = [sum(count["units"].values()) for count in counts]
        assert [row["reason"] for row in dropped] == ["duplicate"] * (37 - kept[dedup][0])
        encoder = ChatEncoder.load(folder)
        parts[dedup] = [
            {encoder.decode(list(split.row(row)[0])).split()[-1] for row in range(len(split))}
            for split in (dataset.open_split(folder, name) for name in dataset.SPLITS)
        ]
    assert kept == {"none": [37, 12], "exact": [36, 12], "near": [12, 12]}
    assert [sum(map(len, parts[dedup])) > 12 for dedup in parts] == [True, True, False]
    report = json.loads((folder / "report.json").read_text())
    assert report["duplicates"]["rows"] == 25
    assert report["duplicates"]["groups"] == 12
    assert {"task": "t", "file": "rows.jsonl", "reason": "duplicate"}.items() <= dropped[0].items()
    assert dropped[0]["detail"].startswith("of rows.jsonl:")


def test_rows_are_filtered_cleaned_and_shown(make_run: Any, tmp_path: Path) -> None:
    folder = tmp_path / "code"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "a.py").write_text("x = 1")
    good = Path(near.__file__).read_text()
    (folder / "good.py").write_text("# Copyright (c) 2020 A. Person\n\n" + good)
    (folder / "mail.py").write_text(good.replace("Near-duplicates:", "Ask a.person@somewhere.org:") + "\n")
    (folder / "short.py").write_text("x = 1\n")
    (folder / "latin.py").write_bytes(b"# caf\xe9\n")
    (folder / "binary.py").write_bytes(b"a\0b")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    suite = tmp_path / "suite.jsonl"
    problem = {
        "task_id": "own/1",
        "prompt": "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda",
    }
    suite.write_text(json.dumps(problem) + "\n")
    (folder / "leak.py").write_text(
        good + "\n# Alpha, beta, gamma: delta epsilon zeta eta theta iota kappa?\n"
    )
    data = {
        "maxLength": 512,
        "overLength": "truncate",
        "split": {"train": 100, "validation": 0, "test": 0},
        "filters": {"enabled": True, "licenseHeaders": "remove", "personalData": "redact"},
        "decontaminate": ["humaneval", f"file://{suite}"],
    }
    run = make_run(tasks=[{"name": "code", "data": {"uri": f"file://{folder}", "format": "code"}}], data=data)
    prepare.prepare(run)
    published = dataset_folder(run)
    dropped = [json.loads(line) for line in (published / "dropped.jsonl").read_text().splitlines()]
    assert {(row["file"], row["reason"]) for row in dropped} == {
        ("binary.py", "binary"),
        ("latin.py", "notUtf8"),
        ("leak.py", "contaminated"),
        ("picture.png", "unknownLanguage"),
        ("short.py", "fewCharacters"),
    }
    report = json.loads((published / "report.json").read_text())
    (task,) = report["tasks"]
    assert (task["read"], task["personal"]) == (7, {"email": 1})
    of_python = {"read": 4, "kept": 2, "dropped": {"contaminated": 1, "fewCharacters": 1}}
    assert task["languages"] == {"python": of_python}
    assert {(hit["file"], hit["suite"], hit["problem"], bool(hit["shared"])) for hit in report["hits"]} == {
        ("leak.py", "suite.jsonl", "own/1", True),
        ("good.py", "humaneval", "HumanEval/85", False),  # both define a function `add`
        ("mail.py", "humaneval", "HumanEval/85", False),
    }
    page = (published / "report.html").read_text()
    assert "contaminated" in page
    assert "http" not in page.split("<h2>Samples")[0]
    assert "a.person@" not in page
    assert "<EMAIL_1>" not in page
    assert "&lt;EMAIL_1&gt;" in page
    text = ChatEncoder.load(published).decode(dataset.open_split(published, "train").row(0)[0].tolist())
    assert "Copyright" not in text


def test_wrong_rows_are_dropped_one_by_one_where_that_is_asked(make_run: Any, tmp_path: Path) -> None:
    tasks = written(tmp_path, TEXTS)
    good = (tmp_path / "rows.jsonl").read_bytes()
    nested = b'{"a":' * 5000
    (tmp_path / "rows.jsonl").write_bytes(good + b'{"text": "\xff"}\n{"text": 1}\n' + nested + b"\n")
    with pytest.raises(Refused, match=r"rows.jsonl, line 61: expected UTF-8.* spec.data.wrongRows"):
        make_run(tasks=tasks)
    run = make_run(tasks=tasks, data={"maxLength": 64, "split": SHARES, "wrongRows": "drop"})
    prepare.prepare(run)
    dropped = (dataset_folder(run) / "dropped.jsonl").read_text().splitlines()
    assert [(row["line"], row["reason"]) for row in map(json.loads, dropped)] == [
        (61, "wrongRow"),
        (62, "wrongRow"),
        (63, "wrongRow"),
    ]


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
