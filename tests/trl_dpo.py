"""TRL's DPO loss of one padded batch. Run by the interpreter of .venv-peers, which has TRL and not this project.

`trl_dpo.py FOLDER` reads FOLDER/base (a model), FOLDER/job.json (rank, alpha, beta, and `pairs` of token ids) and
FOLDER/policy.safetensors (the adapter's weights, by name). With FOLDER/start.safetensors the reference is the
adapter with these weights, else the base alone. FOLDER/trl.safetensors gets loss, margin, accuracy, the
log-probability of each answer under policy and reference, and the gradient of every weight of the adapter.
"""

import json
import sys
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from datasets import Dataset
from safetensors.torch import load_file, save_file
from trl import DPOConfig, DPOTrainer


def main(folder: Path) -> None:
    """Compute and write what the docstring says."""
    job = json.loads((folder / "job.json").read_text())
    trainer = make_trainer(folder, job)
    model = trainer.model
    fill(model, load_file(folder / "policy.safetensors"))
    batch = trainer.data_collator(job["pairs"])
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    result = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    result["loss"] = loss.detach()
    result["margin"], result["accuracy"] = (
        torch.tensor(trainer._metrics["train"][f"rewards/{name}"][0]) for name in ("margins", "accuracies")
    )
    result["chosen"], result["rejected"] = (part.clone() for part in policy_scores(model, batch))
    reference = trainer.compute_ref_log_probs(model, batch)
    result["reference_chosen"], result["reference_rejected"] = (part.clone() for part in reference)
    save_file(result, folder / "trl.safetensors")


def make_trainer(folder: Path, job: dict[str, Any]) -> DPOTrainer:
    """Return a trainer, whose reference is the adapter at the start where there is one."""
    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    config = peft.LoraConfig(r=job["rank"], lora_alpha=job["alpha"], target_modules="all-linear")
    start, adapter = folder / "start.safetensors", {"model": base, "peft_config": config}
    if start.exists():
        adapter = {"model": peft.get_peft_model(base, config)}
        fill(adapter["model"], load_file(start))
    return DPOTrainer(
        **adapter,
        args=DPOConfig(
            output_dir=str(folder / "trl"),
            beta=job["beta"],
            max_length=None,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
        ),
        # A trainer will not start without a dataset; the batch that counts is made of token ids.
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
        processing_class=transformers.AutoTokenizer.from_pretrained(folder / "base"),
    )


def fill(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Set the weights of the adapter."""
    with torch.no_grad():
        for name, weight in weights.items():
            model.get_parameter(name).copy_(weight)


def policy_scores(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Return the log-probabilities of the chosen and the rejected answers, by TRL's own output layer."""
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        output = model(**inputs, labels=labels, use_cache=False, fused_lm_head=True)
    return output.log_probs.sum(1).chunk(2)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
