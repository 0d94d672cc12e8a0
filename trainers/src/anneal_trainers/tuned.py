"""Loading a finished adapter onto its base, for evaluation and export."""

from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file

from anneal_api.artifacts import STAGE_KINDS
from anneal_api.runs import FineTuneRun
from anneal_runtime.artifacts import open_artifact, reference, uri_of
from anneal_runtime.errors import Refused
from anneal_runtime.storage import local
from anneal_trainers import model
from anneal_trainers.inspect_stage import cache_folder
from anneal_trainers.prepare import inspection
from anneal_trainers.sources import base_uri


def dataset_folder(run: FineTuneRun) -> Path:
    """Return the dataset this run has prepared."""
    return _open(run, "prepare")


def adapter_folder(run: FineTuneRun) -> Path:
    """Return the adapter this run has trained."""
    return _open(run, "train")


def load_tuned(run: FineTuneRun, device: torch.device, dtype: torch.dtype) -> Any:
    """Return the base with the trained adapter, in evaluation mode."""
    adapter = run.spec.adapter
    folder = local(base_uri(run.spec.base_model), cache_folder())
    base = model.load_base(folder, quantized=adapter.type == "qlora", device=device, dtype=dtype)
    tuned = model.add_adapter(base, adapter, run.spec.optimization.seed)
    put_adapter(tuned, adapter_folder(run))
    return tuned.eval()


def put_adapter(tuned: Any, folder: Path) -> None:
    """Copy the tensors of an adapter artifact into a model that has an adapter of that shape."""
    saved = load_file(folder / "adapter_model.safetensors")
    peft.set_peft_model_state_dict(tuned, saved)


def input_digests(run: FineTuneRun, *stages: str) -> dict[str, str]:
    """Return the digests of the base model and of what `stages` published, by role: a manifest's inputs.

    Raises:
        Refused: one of the stages has not published.
    """
    digests = {"base": inspection(run).base_digest}
    for stage in stages:
        published = reference(_uri(run, stage))
        if published is None:
            raise Refused("NotPublished", f"{_uri(run, stage)} is gone; run the {stage} stage again")
        digests[STAGE_KINDS[stage]] = published.digest
    return digests


def _open(run: FineTuneRun, stage: str) -> Path:
    return open_artifact(_uri(run, stage), cache_folder())[0]


def _uri(run: FineTuneRun, stage: str) -> str:
    key: str = getattr(inspection(run).keys, stage)
    return uri_of(run.spec.output.uri, run.namespace, STAGE_KINDS[stage], key)
