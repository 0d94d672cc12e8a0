"""Loading a finished adapter onto its base, for evaluation and export."""

from pathlib import Path
from typing import Any

import torch

from anneal_api.artifacts import STAGE_KINDS
from anneal_api.runs import FineTuneRun
from anneal_runtime.artifacts import identity, open_artifact, reference, uri_of
from anneal_runtime.errors import Refused
from anneal_runtime.storage import local
from anneal_trainers import adapters, dataset, init_from, model
from anneal_trainers.inspect_stage import cache_folder
from anneal_trainers.prepare import inspection
from anneal_trainers.sources import base_uri


def dataset_folder(run: FineTuneRun) -> Path:
    """Return the dataset this run has prepared."""
    return _open(run, "prepare")


def adapter_folder(run: FineTuneRun) -> Path:
    """Return the adapter this run has trained."""
    return _open(run, "train")


def initial_adapter(run: FineTuneRun) -> Path | None:
    """Return the folder of the adapter this run goes on from, or None where it starts afresh."""
    return init_from.folder(run.spec.adapter.init_from, cache_folder())


def load_untuned(run: FineTuneRun, device: torch.device, dtype: torch.dtype) -> Any:
    """Return the base in evaluation mode, with an adapter that changes nothing yet."""
    spec, folder = run.spec, local(base_uri(run.spec.base_model), cache_folder())
    added = dataset.added_tokens(dataset_folder(run))
    return model.assemble(folder, spec.adapter, spec.optimization.seed, device, dtype, added).eval()


def load_tuned(run: FineTuneRun, device: torch.device, dtype: torch.dtype) -> Any:
    """Return the base with the trained adapter, in evaluation mode."""
    tuned = load_untuned(run, device, dtype)
    adapters.put(tuned, adapter_folder(run))
    return tuned


def input_digests(run: FineTuneRun, *stages: str) -> dict[str, str]:
    """Return the digests of the base model, of the adapter gone on from, and of what `stages` published, by role.

    Raises:
        Refused: one of the stages has not published.
    """
    digests = {"base": inspection(run).base_digest}
    if uri := run.spec.adapter.init_from:
        digests["initial"] = identity(uri)
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
