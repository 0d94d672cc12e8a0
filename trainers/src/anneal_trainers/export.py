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
from anneal_api.outcome import PublishResult
from anneal_api.runs import FineTuneRun
from anneal_runtime.artifacts import publishing
from anneal_runtime.chat import ChatEncoder
from anneal_runtime.stage import run_stage
from anneal_trainers import dataset, merge, model, tuned
from anneal_trainers.batches import pack
from anneal_trainers.prepare import inspection, producer

REFERENCE_TOKENS = 8192
"""Tokens of reference rows at most: on two CPU cores, half a minute for 135M weights."""
CALIBRATION_TOKENS = 32_768
TOP = 32
"""Log-probabilities kept of a position; the rest is one tail term."""
PARITY_ROWS = 8


def main() -> int:
    """Run the stage of this pod."""
    return run_stage(export, FineTuneRun)


def export(run: FineTuneRun) -> PublishResult:
    """Merge, check, describe, publish."""
    facts, device = inspection(run), model.pick_device(0)
    data = tuned.dataset_folder(run)
    held_out, train = held_out_split(data), dataset.open_split(data, "train")
    peft_model = tuned.load_tuned(run, device, torch.float32)
    merged = merge.merged_model(peft_model)
    rows = choose_rows(held_out if len(held_out) else train, REFERENCE_TOKENS)
    compared = rows[:PARITY_ROWS]
    probe = pack(held_out if len(held_out) else train, compared).to(device)
    difference = merge.check_parity(merge.parity(peft_model, merged, probe))
    del peft_model
    round_to_bf16(merged)
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
        ChatEncoder.load(data).save(folder)
        publication.metadata = {
            "tasks": dataset.task_names(data),
            "parity": {"maxLogitDifference": difference, "limit": merge.PARITY_LIMIT, "rows": len(compared)},
            "lineage": lineage(run, inputs),
        }
        (folder / "README.md").write_text(model_card(run, publication.metadata, data))
        write_tokenizer_config(folder)
        merged.to(torch.bfloat16).save_pretrained(folder)
    return PublishResult(artifact=publication.published)


def held_out_split(folder: Path) -> dataset.Split:
    """Return the test rows, or the validation rows where the split has no test rows."""
    test = dataset.open_split(folder, "test")
    return test if len(test) else dataset.open_split(folder, "validation")


def choose_rows(split: dataset.Split, limit: int) -> npt.NDArray[np.int64]:
    """Return rows of at most `limit` tokens (or one row that is longer): tasks in turn, each in the order of its rows' digests."""
    order = sorted(range(len(split)), key=lambda i: split.digests[i].tobytes())
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
    """Return where the model comes from, as uris and digests."""
    facts = inspection(run)
    return {
        "base": {"uri": run.spec.base_model.uri, "digest": facts.base_digest},
        "tasks": {t.name: t.digest for t in facts.tasks},
        "dataset": inputs["dataset"],
        "adapter": inputs["adapter"],
        "job": f"{run.namespace}/{run.name}",
    }


def model_card(run: FineTuneRun, metadata: dict[str, Any], data: Path) -> str:
    """Return README.md: what the model is, what it was trained on, how it was checked."""
    spec, counts = run.spec, json.loads((data / dataset.ROWS_FILE).read_text())["tasks"]
    table = "\n".join(
        f"| {c['name']} | {c['rows']['train']} | {c['rows']['validation']} | {c['rows']['test']} |"
        for c in counts
    )
    return f"""# {run.name}

{spec.base_model.uri} fine-tuned by Anneal (FineTuneJob {run.namespace}/{run.name}): {spec.adapter.type} of rank
{spec.adapter.rank}, task balance {spec.optimization.task_balance}, merged into the weights it was trained on.

| task | training rows | validation rows | test rows |
|---|---|---|---|
{table}

The merged float32 weights reproduce the adapter model's logits within
{metadata["parity"]["maxLogitDifference"]:.1e} (limit {metadata["parity"]["limit"]:.0e}); the weights here are those
in bf16. Base model: `{metadata["lineage"]["base"]["digest"]}`. Use the chat template in `chat_template.jinja`.
"""
