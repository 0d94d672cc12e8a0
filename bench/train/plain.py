"""A contestant: the loop everyone writes first. Rows padded to the longest of a batch, logits of all positions."""

import numpy as np
import torch

from train.measure import Job, Meter, Result, Rows, adapted, held_out_loss, peak_memory, step_of


def main() -> None:
    """Train on the job's packs, each as one padded batch: the same rows in each step as where rows are packed."""
    job = Job.read()
    rows, model = Rows.load(job.rows, "train"), adapted(job)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=job.learning_rate, weight_decay=0.0)
    model.train()
    meter = Meter()
    for chosen in job.packs:
        batch = padded(rows, chosen)
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        meter.stamp(step_of(rows, chosen, batch["input_ids"].numel(), loss.item()))
    peak = peak_memory()
    Result(meter.steps, peak, held_out_loss(model, Rows.load(job.rows, "held_out"))).print()


def padded(rows: Rows, chosen: list[int]) -> dict[str, torch.Tensor]:
    """Return rows side by side, [rows, longest]; what is not learned has the label -100."""
    shape = len(chosen), int(rows.lengths[chosen].max())
    ids, mask, labels = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, -100)
    for place, row in enumerate(chosen):
        tokens, learned = rows[row]
        ids[place, : len(tokens)], mask[place, : len(tokens)] = tokens, 1
        labels[place, : len(tokens)][learned] = tokens[learned]
    named = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {name: torch.from_numpy(values) for name, values in named.items()}


if __name__ == "__main__":
    main()
