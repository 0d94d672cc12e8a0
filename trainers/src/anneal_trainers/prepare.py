"""Rows become token ids, once: every later stage and every rank maps the same files.

A row's part is chosen by the hash of its content (or of its `group`, or of a preference's prompt), so
identical rows, in whatever task, fall in one part, and adding rows never moves others. Groups and cut rows can
still bring the same ids into two parts: the held-out copy is dropped and counted, so no part holds a row of
another.
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anneal_api.artifacts import STAGE_KINDS, Producer
from anneal_api.finetunejob import Split as Shares
from anneal_api.finetunejob import Task
from anneal_api.outcome import FineTuneInspection, PublishResult
from anneal_api.runs import FineTuneRun
from anneal_api.version import VERSION
from anneal_runtime.artifacts import publishing
from anneal_runtime.chat import ChatEncoder
from anneal_runtime.errors import Refused
from anneal_runtime.stage import run_stage
from anneal_trainers.base import base_model
from anneal_trainers.data import fim, sentinels, sources
from anneal_trainers.data.dataset import ROWS_FILE, SPLITS, Dropped, SplitName, SplitWriter, token_type
from anneal_trainers.data.formats import Row
from anneal_trainers.data.units import Unit, UnitMaker, content_digest
from anneal_trainers.inspect_stage import cache_folder
from anneal_trainers.training import stages


@dataclass
class TaskCount:
    """What became of one task's rows.

    Units, rows and tokens are counted by split, `dropped` source rows by reason, `forms` documents by what
    fill-in-the-middle made of them; `over_length` source rows met the over-length policy.
    """

    name: str
    units: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    over_length: int = 0
    emptied_pieces: int = 0

    def add(self, unit: Unit, part: SplitName) -> None:
        """Count a source row."""
        self.over_length += unit.over_length
        self.emptied_pieces += unit.emptied
        self.forms[unit.form] += 1
        if unit.dropped:
            self.dropped[unit.dropped] += 1
            return
        self.units[part] += 1
        self.rows[part] += len(unit.pieces)
        self.tokens[part] += sum(len(piece.ids) for piece in unit.pieces)

    def drop(self, gone: Dropped, part: SplitName) -> None:
        """Count a unit that was taken out of `part` again."""
        self.units[part] -= 1
        self.rows[part] -= gone.rows
        self.tokens[part] -= gone.tokens
        self.dropped["inAnotherPart"] += 1

    def dump(self) -> dict[str, Any]:
        """Return the counts as JSON."""
        by_split = {"units": self.units, "rows": self.rows, "tokens": self.tokens}
        return {
            "name": self.name,
            **{what: {name: count[name] for name in SPLITS} for what, count in by_split.items()},
            "dropped": dict(sorted(self.dropped.items())),
            "forms": dict(sorted(self.forms.items())),
            "overLength": self.over_length,
            "emptiedPieces": self.emptied_pieces,
        }


def main() -> int:
    """Run the stage of this pod."""
    return run_stage(prepare, FineTuneRun)


def inspection(run: FineTuneRun) -> FineTuneInspection:
    """Return what inspection found out; every stage but inspect has it."""
    if run.inspection is None:
        raise Refused("NotInspected", "the run config holds no inspection; run the inspect stage first")
    return run.inspection


def producer(run: FineTuneRun, stage: str) -> Producer:
    """Return who publishes in this stage."""
    return Producer(
        namespace=run.namespace, kind="FineTuneJob", name=run.name, uid=run.uid, stage=stage, version=VERSION
    )


def prepare(run: FineTuneRun) -> PublishResult:
    """Tokenise, split and publish the rows of all tasks."""
    facts, spec = inspection(run), run.spec
    folder = base_model.tokenizer_folder(spec, cache_folder())
    encoder, added = sentinels.widened(
        spec.tasks, ChatEncoder.from_pretrained_folder(folder, spec.chat_template)
    )
    inputs = {"base": facts.base_digest} | {f"task/{task.name}": task.digest for task in facts.tasks}
    with publishing(
        spec.output.uri,
        run.namespace,
        STAGE_KINDS["prepare"],
        facts.keys.prepare,
        producer=producer(run, "prepare"),
        inputs=inputs,
    ) as publication:
        writers = {name: SplitWriter(token_type(facts.shape.vocabulary, added)) for name in SPLITS}
        counts = [
            _add_task(task, index, UnitMaker(encoder, spec.data, fim.filler(task, encoder)), writers)
            for index, task in enumerate(spec.tasks)
        ]
        hold_apart(writers, counts)
        _check(counts)
        stages.check_validation(spec, [count.name for count in counts if not count.rows["validation"]])
        for name, writer in writers.items():
            writer.write(publication.folder, name)
        encoder.save(publication.folder)
        publication.metadata = {
            "tasks": [count.dump() for count in counts],
            "addedTokens": added,
            "objective": spec.optimization.objective,
        }
        (publication.folder / ROWS_FILE).write_text(json.dumps(publication.metadata, indent=1) + "\n")
    return PublishResult(artifact=publication.published)


def ids_digest(ids: list[int]) -> bytes:
    """Return the sha256 of what a model sees of a row."""
    return hashlib.sha256(np.asarray(ids, "<u4").tobytes()).digest()


def part_of(row: Row, shares: Shares) -> SplitName:
    """Return the split a row belongs to: its group's, or its content's."""
    digest = content_digest(row) if row.group is None else hashlib.sha256(row.group.encode()).digest()
    place = int.from_bytes(hashlib.sha256(b"split\0" + digest).digest()[:8]) % 100
    if place < shares.train:
        return "train"
    return "validation" if place < shares.train + shares.validation else "test"


def hold_apart(writers: dict[SplitName, SplitWriter], counts: list[TaskCount]) -> None:
    """Drop validation units with a row that is a training row too, and test units with one of either."""
    seen: set[bytes] = set()
    for name in SPLITS:
        for gone in writers[name].drop(seen):
            counts[gone.task].drop(gone, name)
        seen.update(writers[name].digests)


def _add_task(task: Task, index: int, maker: UnitMaker, writers: dict[SplitName, SplitWriter]) -> TaskCount:
    count = TaskCount(task.name)
    for row in sources.rows(task):
        unit, part = maker.unit(row), part_of(row, maker.data.split)
        count.add(unit, part)
        if unit.pieces:
            digests = [ids_digest(piece.ids) for piece in unit.pieces]
            writers[part].add(unit.pieces, index, digests, row.difficulty)
    return count


def _check(counts: list[TaskCount]) -> None:
    for count in counts:
        if not count.rows["train"]:
            raise Refused(
                "NoTrainingRows",
                f"task {count.name}: no row is left to train on (over length {count.over_length}, dropped "
                f"{dict(count.dropped)}); raise spec.data.maxLength or spec.data.split.train, or add rows",
            )
