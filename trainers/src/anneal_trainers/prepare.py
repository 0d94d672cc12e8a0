"""Rows become token ids, once: every later stage and every rank maps the same files.

Rows are cleaned as spec.data asks; what is left out is counted, told place by place in dropped.jsonl, and shown in
report.html, which report.json is the same figures of. A row's part is chosen by the hash of its content (or of
its `group`, or of a preference's prompt, or the least of those of its duplicates), so identical rows, in whatever task,
fall in one part, and adding rows never moves others that are not like them. Groups and cut rows can
still bring the same ids into two parts: the held-out copy is dropped and counted, so no part holds a row of
another.
"""

import contextlib
import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anneal_api.artifacts import DATA_REPORT, STAGE_KINDS, Producer
from anneal_api.finetunejob import FineTuneJobSpec, Task
from anneal_api.finetunejob import Split as Shares
from anneal_api.outcome import FineTuneInspection, PublishResult
from anneal_api.runs import FineTuneRun
from anneal_api.version import VERSION
from anneal_runtime.artifacts import publishing
from anneal_runtime.chat import ChatEncoder
from anneal_runtime.errors import Refused
from anneal_runtime.stage import run_stage
from anneal_trainers.base import base_model
from anneal_trainers.corpus.page import page
from anneal_trainers.data import cleaning, duplicates, fim, sentinels, sources
from anneal_trainers.data.counts import TaskCount, Trace, lengths
from anneal_trainers.data.dataset import ROWS_FILE, SPLITS, Origin, SplitName, SplitWriter, token_type
from anneal_trainers.data.duplicates import Duplicates
from anneal_trainers.data.formats import Row
from anneal_trainers.data.units import UnitMaker, content_digest
from anneal_trainers.inspect_stage import cache_folder
from anneal_trainers.training import stages

REPORT = "report.json"
DROPPED = "dropped.jsonl"


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
        found = _duplicates(spec)
        with (publication.folder / DROPPED).open("w", encoding="utf-8") as stream:
            work = _Work(spec, encoder, cleaning.cleaner(spec.data), found, writers, Trace(stream))
            counts = work.counts()
            hold_apart(writers, counts, work.trace)
        _check(counts)
        stages.check_validation(spec, [count.name for count in counts if not count.rows["validation"]])
        splits = {name: writer.write(publication.folder, name) for name, writer in writers.items()}
        encoder.save(publication.folder)
        publication.metadata = {
            "tasks": [count.dump() for count in counts],
            "addedTokens": added,
            "objective": spec.optimization.objective,
        }
        (publication.folder / ROWS_FILE).write_text(json.dumps(publication.metadata, indent=1) + "\n")
        _write_report(publication.folder, work.report(counts, lengths(splits, len(counts))))
    return PublishResult(artifact=publication.published)


@dataclass
class _Work:
    """The second pass over all rows: each is cleaned, encoded and given to the writer of its part."""

    spec: FineTuneJobSpec
    encoder: ChatEncoder
    cleaner: cleaning.Cleaner
    duplicates: Duplicates | None
    writers: dict[SplitName, SplitWriter]
    trace: Trace
    _number: int = 0
    _places: dict[int, dict[str, Any]] = field(default_factory=dict)

    def counts(self) -> list[TaskCount]:
        """Do the work; return what became of each task's rows."""
        return [self._task(task, index) for index, task in enumerate(self.spec.tasks)]

    def report(self, counts: list[TaskCount], tokens: list[dict[str, int]]) -> dict[str, Any]:
        """Return what report.json says; rows have `tokens` tokens, by task."""
        copies = self.duplicates.copies if self.duplicates else {}
        most = sorted(copies, key=lambda number: (-copies[number], number))[:20]
        return {
            "tasks": [
                {**count.dump(), "lengths": of_task} for count, of_task in zip(counts, tokens, strict=True)
            ],
            "duplicates": {
                "rows": sum(copies.values()),
                "groups": len(copies),
                "largest": [{**self._places[number], "copies": copies[number]} for number in most],
            },
            "hits": self.trace.hits,
            "samples": self.trace.samples,
        }

    def _task(self, task: Task, index: int) -> TaskCount:
        count = TaskCount(task.name)
        maker = UnitMaker(self.encoder, self.spec.data, fim.filler(task, self.encoder))
        with contextlib.closing(sources.found(task, self.spec.data)) as places:
            for found in places:
                count.see(found)
                place = {"file": found.file, "line": found.line}
                if found.row is None:
                    self.trace.drop(count, found.reason, place, found.detail)
                elif row := self._cleaned(count, found.row, place):
                    self._add(count, index, maker, row, Origin(found.file, found.line, row.language))
                self._number += found.row is not None
        return count

    def _cleaned(self, count: TaskCount, row: Row, place: dict[str, Any]) -> Row | None:
        """Return a row without what is filtered, or nothing where it is left out."""
        if self._is_copy(count, row, place):
            return None
        cleaned = self.cleaner.clean(row)
        count.personal.update(cleaned.personal)
        if cleaned.hit:
            self.trace.hits.append({"task": count.name, **place, **asdict(cleaned.hit)})
        if cleaned.reason:
            self.trace.drop(count, cleaned.reason, place, cleaned.detail)
            self.trace.show(count, cleaned.reason, place, row, None)
            return None
        if cleaned.row != row:
            self.trace.show(count, "changed", place, row, cleaned.row)
        return cleaned.row

    def _is_copy(self, count: TaskCount, row: Row, place: dict[str, Any]) -> bool:
        if self.duplicates is None:
            return False
        kept = self.duplicates.kept[self._number]
        if kept == self._number:
            return False
        original = self.duplicates.places[kept]
        self._places[kept] = {"task": count.name, "file": original[0], "line": original[1]}
        self.trace.drop(count, "duplicate", place, f"of {original[0]}:{original[1]}")
        self.trace.show(count, "duplicate", place, row, None)
        return True

    def _add(self, count: TaskCount, index: int, maker: UnitMaker, row: Row, origin: Origin) -> None:
        unit = maker.unit(row)
        family = self.duplicates.families[self._number] if self.duplicates else None
        part = part_of(row, self.spec.data.split, family)
        count.add(unit, part, row.language)
        if unit.dropped:
            self.trace.drop(count, unit.dropped, {"file": origin.file, "line": origin.line})
            return
        digests = [ids_digest(piece.ids) for piece in unit.pieces]
        self.writers[part].add(unit.pieces, index, digests, row.difficulty, origin)


def ids_digest(ids: list[int]) -> bytes:
    """Return the sha256 of what a model sees of a row."""
    return hashlib.sha256(np.asarray(ids, "<u4").tobytes()).digest()


def part_of(row: Row, shares: Shares, family: bytes | None = None) -> SplitName:
    """Return the split a row belongs to: its family's of duplicates, its group's, or its content's."""
    own = content_digest(row) if row.group is None else hashlib.sha256(row.group.encode()).digest()
    digest = own if family is None else family
    place = int.from_bytes(hashlib.sha256(b"split\0" + digest).digest()[:8]) % 100
    if place < shares.train:
        return "train"
    return "validation" if place < shares.train + shares.validation else "test"


def hold_apart(writers: dict[SplitName, SplitWriter], counts: list[TaskCount], trace: Trace) -> None:
    """Drop validation units with a row that is a training row too, and test units with one of either."""
    seen: set[bytes] = set()
    for name in SPLITS:
        for gone in writers[name].drop(seen):
            counts[gone.task].take_back(gone, name)
            place = {"file": gone.origin.file, "line": gone.origin.line}
            trace.drop(counts[gone.task], "inAnotherPart", place, name)
        seen.update(writers[name].digests)


def _duplicates(spec: FineTuneJobSpec) -> Duplicates | None:
    if spec.data.dedup == "none":
        return None
    with tempfile.TemporaryDirectory(prefix="anneal-grams-") as scratch:
        rows = (
            (index, found)
            for index, task in enumerate(spec.tasks)
            for found in sources.found(task, spec.data)
            if found.row
        )
        return duplicates.find(rows, spec.data.dedup == "near", Path(scratch))


def _write_report(folder: Path, report: dict[str, Any]) -> None:
    (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n")
    (folder / DATA_REPORT).write_text(page(report), encoding="utf-8")


def _check(counts: list[TaskCount]) -> None:
    for count in counts:
        if not count.rows["train"]:
            raise Refused(
                "NoTrainingRows",
                f"task {count.name}: no row is left to train on (over length {count.over_length}, dropped "
                f"{dict(count.dropped)}); raise spec.data.maxLength or spec.data.split.train, or add rows",
            )
