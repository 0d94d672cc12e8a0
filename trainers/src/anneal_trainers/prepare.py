"""Rows become token ids, once: every later stage and every rank maps the same files.

A row's part is chosen by the hash of its content (or of its `group`), so identical rows, in whatever
task, fall in one part, and adding rows never moves others. Groups and cut rows can still bring the
same ids into two parts: the held-out copy is dropped and counted, so no part holds a row of another.
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anneal_api.artifacts import STAGE_KINDS, Producer
from anneal_api.finetunejob import Data
from anneal_api.finetunejob import Split as Shares
from anneal_api.outcome import FineTuneInspection, PublishResult
from anneal_api.runs import FineTuneRun
from anneal_api.version import VERSION
from anneal_runtime.artifacts import publishing
from anneal_runtime.chat import ChatEncoder, Encoded
from anneal_runtime.errors import Refused
from anneal_runtime.stage import run_stage
from anneal_trainers import base_model, sources
from anneal_trainers.dataset import ROWS_FILE, SPLITS, SplitName, SplitWriter, token_type
from anneal_trainers.formats import Row
from anneal_trainers.inspect_stage import cache_folder


@dataclass
class TaskCount:
    """What became of one task's rows."""

    name: str
    units: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    over_length: int = 0
    pieces_without_targets: int = 0

    def dump(self) -> dict[str, Any]:
        """Return the counts as JSON."""
        return {
            "name": self.name,
            "units": {name: self.units[name] for name in SPLITS},
            "rows": {name: self.rows[name] for name in SPLITS},
            "tokens": {name: self.tokens[name] for name in SPLITS},
            "dropped": dict(sorted(self.dropped.items())),
            "overLength": self.over_length,
            "piecesWithoutTargets": self.pieces_without_targets,
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
    encoder = ChatEncoder.from_pretrained_folder(folder, spec.chat_template)
    inputs = {"base": facts.base_digest} | {f"task/{task.name}": task.digest for task in facts.tasks}
    with publishing(
        spec.output.uri,
        run.namespace,
        STAGE_KINDS["prepare"],
        facts.keys.prepare,
        producer=producer(run, "prepare"),
        inputs=inputs,
    ) as publication:
        writers = {name: SplitWriter(token_type(facts.shape.vocabulary)) for name in SPLITS}
        counts = [
            _add_task(index, task.name, sources.rows(task), encoder, spec.data, writers)
            for index, task in enumerate(spec.tasks)
        ]
        hold_apart(writers, counts)
        _check(counts)
        for name, writer in writers.items():
            writer.write(publication.folder, name)
        encoder.save(publication.folder)
        publication.metadata = {
            "tasks": [count.dump() for count in counts],
            "addedTokens": {},
            "objective": spec.optimization.objective,
        }
        (publication.folder / ROWS_FILE).write_text(json.dumps(publication.metadata, indent=1) + "\n")
    return PublishResult(artifact=publication.published)


def encode_row(row: Row, encoder: ChatEncoder) -> Encoded:
    """Return the ids of a row: a chat by the template, a plain text whole and closed by the end token."""
    return encoder.encode(row.chat) if row.messages else encoder.encode_document(row.text)


def content_digest(row: Row) -> bytes:
    """Return the sha256 of a row's content."""
    content = json.dumps([row.messages, row.text], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).digest()


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


def fit(encoded: Encoded, data: Data) -> list[Encoded]:
    """Return what the over-length policy leaves of a row: nothing, itself, or pieces."""
    length = len(encoded.ids)
    if length <= data.max_length:
        return [encoded]
    if data.over_length == "drop":
        return []
    starts = range(0, length, data.max_length) if data.over_length == "split" else range(1)
    return [
        Encoded(encoded.ids[s : s + data.max_length], encoded.learned[s : s + data.max_length])
        for s in starts
    ]


def hold_apart(writers: dict[SplitName, SplitWriter], counts: list[TaskCount]) -> None:
    """Drop validation units with a row that is a training row too, and test units with one of either."""
    seen: set[bytes] = set()
    for name in SPLITS:
        for gone in writers[name].drop(seen):
            count = counts[gone.task]
            count.units[name] -= 1
            count.rows[name] -= gone.rows
            count.tokens[name] -= gone.tokens
            count.dropped["inAnotherPart"] += 1
        seen.update(writers[name].digests)


def _add_task(
    index: int,
    name: str,
    rows: Any,
    encoder: ChatEncoder,
    data: Data,
    writers: dict[SplitName, SplitWriter],
) -> TaskCount:
    count = TaskCount(name)
    for row in rows:
        encoded = encode_row(row, encoder)
        count.over_length += len(encoded.ids) > data.max_length
        pieces = fit(encoded, data)
        kept = [piece for piece in pieces if any(piece.learned[1:])]
        count.dropped["overLength"] += not pieces
        count.dropped["nothingLearned"] += bool(pieces) and not kept
        count.pieces_without_targets += len(pieces) - len(kept) if kept else 0
        if kept:
            part = part_of(row, data.split)
            writers[part].add(kept, index, [ids_digest(piece.ids) for piece in kept], row.difficulty)
            count.units[part] += 1
            count.rows[part] += len(kept)
            count.tokens[part] += sum(len(piece.ids) for piece in kept)
    count.dropped = +count.dropped
    return count


def _check(counts: list[TaskCount]) -> None:
    for count in counts:
        if not count.rows["train"]:
            raise Refused(
                "NoTrainingRows",
                f"task {count.name}: no row is left to train on (over length {count.over_length}, dropped "
                f"{dict(count.dropped)}); raise spec.data.maxLength or spec.data.split.train, or add rows",
            )
