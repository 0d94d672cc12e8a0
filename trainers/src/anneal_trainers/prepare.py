"""Rows become token ids, once: every later stage and every rank maps the same files.

Files are read, and their rows cleaned and encoded, in shards: one here, or several by pods of their own (shard.py);
what concerns all rows, duplicates and the split, is decided here. Rows are cleaned as spec.data asks; what is left out is counted, told place by place in dropped.jsonl, and shown in
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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anneal_api.artifacts import DATA_FIGURES, DATA_REPORT, STAGE_KINDS, Producer, content_key, shard_key
from anneal_api.base import ArtifactRef
from anneal_api.finetunejob import FineTuneJobSpec
from anneal_api.finetunejob import Split as Shares
from anneal_api.outcome import FineTuneInspection, PublishResult
from anneal_api.runs import FineTuneRun
from anneal_api.version import VERSION
from anneal_runtime.artifacts import Publication, open_artifact, publishing, reference, uri_of
from anneal_runtime.chat import ChatEncoder
from anneal_runtime.errors import Refused
from anneal_runtime.stage import run_stage
from anneal_trainers import cleanup
from anneal_trainers.base import base_model
from anneal_trainers.corpus.page import page
from anneal_trainers.data import duplicates, sentinels, shards
from anneal_trainers.data.counts import TaskCount, Trace, lengths
from anneal_trainers.data.dataset import ROWS_FILE, SPLITS, SplitName, SplitWriter, token_type
from anneal_trainers.data.duplicates import Duplicates
from anneal_trainers.data.shards import Record
from anneal_trainers.inspect_stage import cache_folder
from anneal_trainers.training import stages

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
    """Publish the rows of all tasks, unless a pod before this one has; no shard is left."""
    try:
        artifact = _dataset(run) or _joined(run)
    except (Refused, OSError):
        # Another run of the same key may have published it, and removed the shards while they were read here.
        if (found := _dataset(run)) is None:
            raise
        artifact = found
    shards_of = inspection(run).shards
    for number in range(shards_of if shards_of > 1 else 0):
        cleanup.remove(_shard_uri(run, number))
    return PublishResult(artifact=artifact)


def _dataset(run: FineTuneRun) -> ArtifactRef | None:
    key = inspection(run).keys.prepare
    return reference(uri_of(run.spec.output.uri, run.namespace, STAGE_KINDS["prepare"], key))


def _joined(run: FineTuneRun) -> ArtifactRef:
    """Tokenise, split and publish the rows of all tasks."""
    facts, spec = inspection(run), run.spec
    encoder, added = _encoder(run)
    kind = token_type(facts.shape.vocabulary, added)
    with _shards(run) as folders, _publishing(run, "prepare", facts.keys.prepare) as publication:
        writers = {name: SplitWriter(kind) for name in SPLITS}
        with (publication.folder / DROPPED).open("w", encoding="utf-8") as stream:
            work = _Work(spec, _duplicates(spec, folders), writers, Trace(stream))
            counts = work.counts(shards.units(folders, kind))
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
    return publication.published


def shard(run: FineTuneRun, number: int) -> PublishResult:
    """Publish a shard of a run that has several, unless it is published, or what is made of it."""
    if found := reference(_shard_uri(run, number)) or _dataset(run):
        return PublishResult(artifact=found)
    with _publishing(run, "shard", _shard_key(run, number)) as publication:
        publication.metadata = {"files": _scan(run, number, publication.folder)}
    return PublishResult(artifact=publication.published)


def _encoder(run: FineTuneRun) -> tuple[ChatEncoder, dict[str, int]]:
    folder = base_model.tokenizer_folder(run.spec, cache_folder())
    encoder = ChatEncoder.from_pretrained_folder(folder, run.spec.chat_template)
    return sentinels.widened(run.spec.tasks, encoder)


def _publishing(run: FineTuneRun, stage: str, key: str) -> contextlib.AbstractContextManager[Publication]:
    facts = inspection(run)
    inputs = {"base": facts.base_digest} | {f"task/{task.name}": task.digest for task in facts.tasks}
    kind, by = STAGE_KINDS[stage], producer(run, stage)
    return publishing(run.spec.output.uri, run.namespace, kind, key, producer=by, inputs=inputs)


def _shard_key(run: FineTuneRun, number: int) -> str:
    facts = inspection(run)
    return shard_key(facts.keys.prepare, number, facts.shards)


def _shard_uri(run: FineTuneRun, number: int) -> str:
    return uri_of(run.spec.output.uri, run.namespace, STAGE_KINDS["shard"], _shard_key(run, number))


def _scan(run: FineTuneRun, number: int, folder: Path) -> str:
    """Make a shard in `folder`; return the digest of all files there are to divide."""
    facts, (encoder, added) = inspection(run), _encoder(run)
    files = shards.listing(run.spec)
    mine = shards.share(files, number, facts.shards)
    shards.Scan(run.spec, encoder, token_type(facts.shape.vocabulary, added), folder).make(mine)
    return content_key([[index, file.path, file.size] for index, file in files])


@contextlib.contextmanager
def _shards(run: FineTuneRun) -> Iterator[list[Path]]:
    """Yield the folders of all shards: published ones, or a single one that is made here.

    Raises:
        Refused: one is not published, or they do not divide the same files.
    """
    count = inspection(run).shards
    if count == 1:
        with tempfile.TemporaryDirectory(prefix="anneal-shard-") as folder:
            _scan(run, 0, Path(folder))
            yield [Path(folder)]
        return
    opened = [open_artifact(_shard_uri(run, number), cache_folder()) for number in range(count)]
    if len({manifest.metadata["files"] for _, manifest in opened}) > 1:
        raise Refused(
            "DataChanged",
            "spec.tasks[].data.uri: the files there changed while they were read; create the job again once they rest",
        )
    yield [folder for folder, _ in opened]


@dataclass
class _Work:
    """What shards have found becomes counts, a trace, and the units of each part."""

    spec: FineTuneJobSpec
    duplicates: Duplicates | None
    writers: dict[SplitName, SplitWriter]
    trace: Trace
    _number: int = 0
    _places: dict[int, dict[str, Any]] = field(default_factory=dict)

    def counts(self, units: Iterable[tuple[Record, shards.Ids, shards.Ids]]) -> list[TaskCount]:
        """Do the work; return what became of each task's rows."""
        counts = [TaskCount(task.name) for task in self.spec.tasks]
        for record, tokens, learned in units:
            count = counts[record.task]
            count.see(record.language)
            if self._is_kept(count, record):
                self._add(count, record, tokens, learned)
            self._number += record.marks is not None
        return counts

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

    def _is_kept(self, count: TaskCount, record: Record) -> bool:
        """Return whether a row goes on; tell why not."""
        if record.marks is None:
            self.trace.drop(count, record.reason, record.origin, record.detail)
            return False
        if self._is_copy(count, record):
            return False
        count.personal.update(record.personal)
        if record.hit:
            self.trace.hits.append({"task": count.name, **record.place, **record.hit})
        if record.reason:
            self.trace.drop(count, record.reason, record.origin, record.detail)
            self.trace.show(count, record.reason, record.place, record.before)
        elif record.after is not None:
            self.trace.show(count, "changed", record.place, record.before, record.after)
        return not record.reason

    def _is_copy(self, count: TaskCount, record: Record) -> bool:
        if self.duplicates is None:
            return False
        kept = self.duplicates.kept[self._number]
        if kept == self._number:
            return False
        original = self.duplicates.places[kept]
        self._places[kept] = {"task": count.name, "file": original[0], "line": original[1]}
        self.trace.drop(count, "duplicate", record.origin, f"of {original[0]}:{original[1]}")
        self.trace.show(count, "duplicate", record.place, record.before)
        return True

    def _add(self, count: TaskCount, record: Record, tokens: shards.Ids, learned: shards.Ids) -> None:
        unit, marks = record.unit, record.marks
        assert marks is not None
        assert unit is not None, "a row that goes on was encoded"
        family = self.duplicates.families[self._number] if self.duplicates else marks.own
        part = part_of(family, self.spec.data.split)
        count.add(unit, part, record.language)
        if unit.dropped:
            self.trace.drop(count, unit.dropped, record.origin)
            return
        digests = [ids_digest(ids) for ids in np.split(tokens, np.cumsum(unit.lengths)[:-1])]
        self.writers[part].append(
            tokens, learned, unit.lengths, record.task, digests, record.difficulty, record.origin
        )


def ids_digest(ids: shards.Ids) -> bytes:
    """Return the sha256 of what a model sees of a row."""
    return hashlib.sha256(ids.astype("<u4").tobytes()).digest()


def part_of(key: bytes, shares: Shares) -> SplitName:
    """Return the split of rows with this key: a family's of duplicates, a group's, or a row's own."""
    place = int.from_bytes(hashlib.sha256(b"split\0" + key).digest()[:8]) % 100
    if place < shares.train:
        return "train"
    return "validation" if place < shares.train + shares.validation else "test"


def hold_apart(writers: dict[SplitName, SplitWriter], counts: list[TaskCount], trace: Trace) -> None:
    """Drop validation units with a row that is a training row too, and test units with one of either."""
    seen: set[bytes] = set()
    for name in SPLITS:
        for gone in writers[name].drop(seen):
            counts[gone.task].take_back(gone, name)
            trace.drop(counts[gone.task], "inAnotherPart", gone.origin, name)
        seen.update(writers[name].digests)


def _duplicates(spec: FineTuneJobSpec, folders: Sequence[Path]) -> Duplicates | None:
    if spec.data.dedup == "none":
        return None
    near = spec.data.dedup == "near"
    return duplicates.find(shards.marked(folders, near), folders if near else ())


def _write_report(folder: Path, report: dict[str, Any]) -> None:
    (folder / DATA_FIGURES).write_text(json.dumps(report, indent=1) + "\n")
    (folder / DATA_REPORT).write_text(page(report), encoding="utf-8")


def _check(counts: list[TaskCount]) -> None:
    for count in counts:
        if not count.rows["train"]:
            raise Refused(
                "NoTrainingRows",
                f"task {count.name}: no row is left to train on (over length {count.over_length}, dropped "
                f"{dict(count.dropped)}); raise spec.data.maxLength or spec.data.split.train, or add rows",
            )
