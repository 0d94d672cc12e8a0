"""A contestant, in .venv-peers: TRL's SFTTrainer on ready token rows, with the settings that are best on a CPU.

`python -m train.trl_peer MODE JOB.json`, MODE one of packing (bfd, its default: padding-free, document-masked),
grouped (by length), dynamic (to the longest of a batch), or packs, which prints how TRL packs the rows.
Its loss is the fused head (loss_type nll, no logits of a batch). No gradient checkpointing, as nobody here does it.
"""

import itertools
import json
import sys
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import torch
import transformers
import trl

from train.measure import Job, Meter, Result, Rows, Step, adapted, held_out_loss, peak_memory

STRATEGY = {"packing": "sequential", "grouped": "group_by_length", "dynamic": "random"}


class Stamps(transformers.TrainerCallback):
    """Stamps the meter after every optimizer step; `seen` is what the collator was given since the last one."""

    def __init__(self, meter: Meter, seen: list[Step]) -> None:
        self._meter, self._seen = meter, seen

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock where training starts."""
        self._meter.start()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """End a step."""
        self._meter.stamp(self._seen.pop(0))


def main() -> None:
    """Train once over the rows."""
    mode, job = sys.argv[1], Job.read()
    rows = Rows.load(job.rows, "train")
    if mode == "packs":
        print(json.dumps(packs(rows, job.capacity)))
        return
    datasets.disable_progress_bars()
    meter = Meter()
    seen: list[Step] = []
    with TemporaryDirectory() as scratch:
        trainer = make(mode, job, rows, scratch, Stamps(meter, seen))
        trainer.data_collator = counting(trainer.data_collator, seen)
        for weight in trainer.model.parameters():
            # TRL makes the adapter of a quantised model bf16, which many CPUs emulate: float32 as everyone else.
            if weight.requires_grad:
                weight.data = weight.data.float()
        trainer.train()
    for step, logged in zip(meter.steps, trainer.state.log_history, strict=False):
        step.loss = logged["loss"]
    peak = peak_memory()
    Result(meter.steps, peak, held_out_loss(trainer.model, Rows.load(job.rows, "held_out"))).print()


def make(mode: str, job: Job, rows: Rows, scratch: str, stamps: Stamps) -> trl.SFTTrainer:
    """Return the trainer of a mode."""
    config = trl.SFTConfig(
        output_dir=scratch,
        packing=mode == "packing",
        max_length=job.capacity,
        per_device_train_batch_size=1 if mode == "packing" else job.batch,
        train_sampling_strategy=STRATEGY[mode],
        learning_rate=job.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        num_train_epochs=1,
        seed=job.seed,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(job.model, local_files_only=True)
    return trl.SFTTrainer(
        model=adapted(job),
        args=config,
        train_dataset=dataset(rows),
        processing_class=tokenizer,
        callbacks=[stamps],
    )


def dataset(rows: Rows) -> datasets.Dataset:
    """Return rows as TRL takes tokenised ones."""
    pairs = [rows[row] for row in range(len(rows))]
    labels = [[int(i) if flag else -100 for i, flag in zip(*pair, strict=True)] for pair in pairs]
    return datasets.Dataset.from_dict({"input_ids": [ids.tolist() for ids, _ in pairs], "labels": labels})


def packs(rows: Rows, capacity: int) -> list[list[int]]:
    """Return the rows of each of TRL's packs; rows are told by their ids, of which no two are alike."""
    datasets.disable_progress_bars()
    packed = trl.pack_dataset(dataset(rows), capacity, "bfd")
    known = {tuple(rows[row][0].tolist()): row for row in range(len(rows))}
    found = []
    for pack in packed:
        starts = [sum(pack["seq_lengths"][:k]) for k in range(len(pack["seq_lengths"]) + 1)]
        pieces = itertools.pairwise(starts)
        found.append([known[tuple(pack["input_ids"][a:b])] for a, b in pieces])
    return found


def counting(collate: Any, seen: list[Step]) -> Any:
    """Return `collate` that also notes what it was given: the positions computed and the tokens among them."""

    def collated(examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch: dict[str, torch.Tensor] = collate(examples)
        tokens = sum(len(example["input_ids"]) for example in examples)
        learned = int((batch["labels"] != -100).sum())
        seen.append(Step(tokens, learned, batch["input_ids"].numel()))
        return batch

    return collated


if __name__ == "__main__":
    main()
