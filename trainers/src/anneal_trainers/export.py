"""The merged model as an artifact: weights in bf16, and what a deployment needs to judge its quantised copy.

reference.safetensors    held-out rows with the full-precision model's answers: the gate compares with them,
                         as a large model does not fit a serving card in full precision
calibration.safetensors  training rows for activation-aware quantisation; none of them is a reference row
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file

from anneal_api.artifacts import STAGE_KINDS
from anneal_api.memory import ModelShape
from anneal_api.outcome import PublishResult
from anneal_api.runs import FineTuneRun
from anneal_api.version import VERSION
from anneal_runtime.artifacts import publishing
from anneal_runtime.chat import ChatEncoder
from anneal_runtime.stage import run_stage
from anneal_trainers import spelling, tuned
from anneal_trainers.base import merge, model
from anneal_trainers.data import dataset
from anneal_trainers.data.batches import Batch, pack
from anneal_trainers.prepare import inspection, producer

REFERENCE_TOKENS = 8192
"""Tokens of reference rows at most: on two CPU cores, half a minute for 135M weights."""
CALIBRATION_TOKENS = 32_768
TOP = 32
"""Log-probabilities kept of a position; the rest is one tail term."""
PARITY_ROWS = 8
MERGE_BYTES = 6
"""Bytes a weight: four of the merged model, half a byte of NF4, and room for activations and logits."""
GENERATION_FILE = "generation_config.json"
LOSSES = ("firstTaskLosses", "taskLosses")


def main() -> int:
    """Run the stage of this pod."""
    return run_stage(export, FineTuneRun)


def export(run: FineTuneRun) -> PublishResult:
    """Merge, check, describe, publish."""
    facts = inspection(run)
    device = merge_device(facts.shape, model.pick_device(0))
    data = tuned.dataset_folder(run)
    held_out, train = held_out_split(data), dataset.open_split(data, "train")
    shown = held_out if len(held_out) else train
    rows = choose_rows(shown, REFERENCE_TOKENS)
    encoder = ChatEncoder.load(data)
    spelling.check(encoder, (shown.row(int(row)) for row in rows))
    probe = pack(shown, rows[:PARITY_ROWS]).to(device)
    merged, checks = checked_merge(tuned.load_tuned(run, device, torch.float32), probe)
    inputs = tuned.input_digests(run, "prepare", "train")
    with publishing(
        run.spec.output.uri,
        run.namespace,
        STAGE_KINDS["export"],
        facts.keys.export,
        producer=producer(run, "export"),
        inputs=inputs,
    ) as publication:
        folder = publication.folder
        save_file(
            reference(merged, held_out, rows if len(held_out) else rows[:0]), folder / "reference.safetensors"
        )
        save_file(calibration(train, held_out, rows), folder / "calibration.safetensors")
        encoder.save(folder)
        publication.metadata = {
            "tasks": dataset.task_names(data),
            **checks,
            **task_losses(tuned.adapter_metadata(run)),
            "lineage": lineage(run, inputs),
        }
        (folder / "README.md").write_text(model_card(run, publication.metadata, data))
        write_tokenizer_config(folder)
        write_model(merged, folder)
        write_generation_config(folder, tuned.base_folder(run), encoder.eos_ids)
    return PublishResult(artifact=publication.published)


def checked_merge(peft_model: Any, probe: Batch) -> tuple[Any, dict[str, Any]]:
    """Return the merged model with the values of bf16, in float32, and what its two checks measured."""
    alone = merge.divergence(peft_model, merge.rounded_model(peft_model), probe)
    merged = merge.merged_model(peft_model)
    parity = merge.check_parity(peft_model, merged, probe)
    round_to_bf16(merged)
    published = merge.divergence(peft_model, merged, probe)
    merge.check_rounding(published, alone)
    return merged, {
        "parity": {
            "maxLogitDifference": parity.difference,
            "arithmetic": parity.arithmetic,
            "limit": merge.PARITY_LIMIT,
            "tokens": len(probe.before),
        },
        "rounding": {"kl": published, "klOfRoundingAlone": alone, "limit": merge.KL_LIMIT},
    }


def merge_device(shape: ModelShape, device: torch.device) -> torch.device:
    """Return `device` if a float32 model fits there beside its NF4 base, else the CPU."""
    if device.type == "cpu":
        return device
    free, _ = torch.cuda.mem_get_info(device)
    needed = MERGE_BYTES * (shape.linear_parameters + shape.embedding_parameters)
    return device if needed <= free else torch.device("cpu")


def write_model(merged: Any, folder: Path, shard: str = "5GB") -> None:
    """Write weights in bf16, in shards of at most `shard` with an index where they are several, and config.json."""
    merged.to(torch.bfloat16).save_pretrained(folder, max_shard_size=shard)


def write_generation_config(folder: Path, base: Path, eos_ids: list[int]) -> None:
    """Write the base's generation settings, but for the tokens that end an answer: those training taught."""
    path = base / GENERATION_FILE
    settings = json.loads(path.read_text()) if path.exists() else {}
    (folder / GENERATION_FILE).write_text(json.dumps(settings | {"eos_token_id": eos_ids}, indent=1) + "\n")


def held_out_split(folder: Path) -> dataset.Split:
    """Return the test rows, or the validation rows where the split has no test rows."""
    test = dataset.open_split(folder, "test")
    return test if len(test) else dataset.open_split(folder, "validation")


def choose_rows(split: dataset.Split, limit: int) -> npt.NDArray[np.int64]:
    """Return rows of at most `limit` tokens together (or one row that is longer), tasks in turn.

    Taken is the first row of each unit, within a task in the order of digests.
    """
    # Of a preference pair that is the chosen answer; pieces of a long row would tell much the same.
    order = sorted(split.units[:-1].tolist(), key=lambda i: split.digests[i].tobytes())
    turns: dict[int, int] = {}
    ranked = []
    for row in order:
        task = int(split.tasks[row])
        turns[task] = turns.get(task, 0) + 1
        ranked.append((turns[task], task, row))
    chosen = np.asarray([row for _, _, row in sorted(ranked)], np.int64)
    fitting: npt.NDArray[np.bool_] = np.cumsum(split.lengths[chosen]) <= limit
    fitting[:1] = True
    return np.extract(fitting, chosen)


def round_to_bf16(merged: Any) -> None:
    """Give every weight the value it is published with, still in float32."""
    for parameter in merged.parameters():
        parameter.data = parameter.data.to(torch.bfloat16).float()


@torch.no_grad()
def reference(merged: Any, split: dataset.Split, rows: npt.NDArray[np.int64]) -> dict[str, torch.Tensor]:
    """Return rows and the model's answers for every position; position t predicts t + 1 of its row."""
    answers = [_answers(merged, split, int(row)) for row in rows]
    empty = (torch.zeros(0, TOP, dtype=torch.int32), torch.zeros(0, TOP), torch.zeros(0), torch.zeros(0))
    columns = [torch.cat(column) for column in zip(*[empty, *answers], strict=True)]
    names = ("top_ids", "top_logprobs", "tail_logprob", "nll")
    return flat_rows(split, rows) | {n: c.contiguous() for n, c in zip(names, columns, strict=True)}


def flat_rows(split: dataset.Split, rows: npt.NDArray[np.int64]) -> dict[str, torch.Tensor]:
    """Return rows one after another: ids, learned flags, offsets and tasks."""
    pairs = [split.row(int(row)) for row in rows]
    ids = np.concatenate([np.zeros(0, np.int64), *(ids for ids, _ in pairs)])
    learned = np.concatenate([np.zeros(0, bool), *(learned for _, learned in pairs)])
    ends = np.cumsum([0, *(len(ids) for ids, _ in pairs)])
    return {
        "input_ids": torch.from_numpy(ids.astype(np.int32)),
        "offsets": torch.from_numpy(ends.astype(np.int64)),
        "task": torch.from_numpy(split.tasks[rows].astype(np.int32)),
        "learned": torch.from_numpy(learned.astype(np.uint8)),
    }


def calibration(
    train: dataset.Split, held_out: dataset.Split, reference_rows: npt.NDArray[np.int64]
) -> dict[str, torch.Tensor]:
    """Return training rows, without any whose content is a reference row's."""
    taken = {held_out.digests[row].tobytes() for row in reference_rows} if len(held_out) else set()
    rows = choose_rows(train, CALIBRATION_TOKENS)
    kept = np.asarray([row for row in rows if train.digests[row].tobytes() not in taken], np.int64)
    return {name: flat_rows(train, kept)[name] for name in ("input_ids", "offsets")}


def _answers(merged: Any, split: dataset.Split, row: int) -> tuple[torch.Tensor, ...]:
    """Return [length, TOP] ids and log-probabilities, [length] tail and nll (0 at the unused last position)."""
    device = next(merged.parameters()).device
    ids = torch.from_numpy(split.row(row)[0]).to(device)
    logprobs = merged(input_ids=ids[None], use_cache=False).logits[0].log_softmax(-1)
    top = logprobs.topk(TOP)
    tail = torch.log1p(-top.values.exp().sum(-1).clamp(max=1 - 1e-7))
    nll = -logprobs[:-1].gather(-1, ids[1:, None]).squeeze(-1)
    columns = (top.indices.int(), top.values, tail, torch.cat([nll, nll.new_zeros(1)]))
    return tuple(column.cpu() for column in columns)


def write_tokenizer_config(folder: Path) -> None:
    """Write what Hugging Face readers of the folder need beside tokenizer.json."""
    chat = json.loads((folder / "chat.json").read_text())
    config = {"tokenizer_class": "PreTrainedTokenizerFast"} | chat["variables"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "chat_template.jinja").write_text(chat["template"])


def lineage(run: FineTuneRun, inputs: dict[str, str]) -> dict[str, Any]:
    """Return where the model comes from, as uris and digests, and the version of the code that made it."""
    facts, adapter = inspection(run), run.spec.adapter
    found = {
        "base": {"uri": run.spec.base_model.uri, "digest": facts.base_digest},
        "tasks": {t.name: t.digest for t in facts.tasks},
        "dataset": inputs["dataset"],
        "adapter": inputs["adapter"],
        "job": f"{run.namespace}/{run.name}",
        "version": VERSION,
    }
    return found | (
        {"initFrom": {"uri": adapter.init_from, "digest": inputs["initial"]}} if adapter.init_from else {}
    )


def model_card(run: FineTuneRun, metadata: dict[str, Any], data: Path) -> str:
    """Return README.md: what the model is, what it was trained on, how it was checked."""
    spec, adapter, origin = run.spec, run.spec.adapter, metadata["lineage"]
    parity, rounding = metadata["parity"], metadata["rounding"]
    start = f"gone on from `{origin['initFrom']['digest']}`" if "initFrom" in origin else "begun afresh"
    return f"""# {run.name}

{spec.base_model.uri} fine-tuned by Anneal {VERSION} (FineTuneJob {origin["job"]}) and merged into the weights it was
trained on. Use the chat template in `chat_template.jinja`.

{task_table(metadata, data)}

| | |
|---|---|
| base model | `{origin["base"]["digest"]}` |
| dataset | `{origin["dataset"]}` |
| adapter | {adapter.type}, rank {adapter.rank}, alpha {adapter.alpha:g}, {start}: `{origin["adapter"]}` |
| objective | {spec.optimization.objective}, task balance {spec.optimization.task_balance} |
| merged float32 weights against the adapter model | logits differ by at most {parity["maxLogitDifference"]:.1e} in \
{parity["arithmetic"]} (limit {parity["limit"]:.0e}) |
| these bf16 weights against it | KL {rounding["kl"]:.1e} nats a token, {rounding["klOfRoundingAlone"]:.1e} by rounding \
alone (limit {rounding["limit"]:g} times) |
"""


def task_losses(adapter: dict[str, Any]) -> dict[str, Any]:
    """Return each task's validation loss before the first step and at the best, from the adapter's metadata."""
    return {name: adapter.get(name, {}) for name in LOSSES}


def task_table(metadata: dict[str, Any], data: Path) -> str:
    """Return rows, data and validation losses (nats a token, or a pair) of each task as a table."""
    digests = metadata["lineage"]["tasks"]
    lines = [
        "| task | training rows | validation rows | test rows | validation loss before | after | data |",
        "|---" * 7 + "|",
    ]
    for task in json.loads((data / dataset.ROWS_FILE).read_text())["tasks"]:
        name, rows = task["name"], task["rows"]
        losses = (f"{metadata[of][name]:.4f}" if name in metadata[of] else "none" for of in LOSSES)
        cells = [name, *(str(rows[part]) for part in dataset.SPLITS), *losses, f"`{digests[name]}`"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
