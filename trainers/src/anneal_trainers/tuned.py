"""Loading a finished adapter onto its base, for evaluation and export."""

from pathlib import Path
from typing import Any

import torch

from anneal_api.artifacts import STAGE_KINDS
from anneal_api.runs import FineTuneRun
from anneal_runtime.artifacts import identity, open_artifact, published, reference, uri_of
from anneal_runtime.errors import Refused
from anneal_runtime.storage import local
from anneal_trainers.base import adapters, model
from anneal_trainers.data import dataset
from anneal_trainers.data.sources import base_uri
from anneal_trainers.inspect_stage import cache_folder
from anneal_trainers.prepare import inspection


def dataset_folder(run: FineTuneRun) -> Path:
    """Return the dataset this run has prepared."""
    return _open(run, "prepare")


def adapter_folder(run: FineTuneRun) -> Path:
    """Return the adapter this run has trained."""
    return _open(run, "train")


def exported_folder(run: FineTuneRun) -> Path:
    """Return the merged model this run has exported."""
    return _open(run, "export")


def adapter_metadata(run: FineTuneRun) -> dict[str, Any]:
    """Return what the training stage noted beside its adapter."""
    manifest = published(_uri(run, "train"))
    return manifest.metadata if manifest else {}


def base_folder(run: FineTuneRun) -> Path:
    """Return a local copy of the base model."""
    return local(base_uri(run.spec.base_model), cache_folder())


def initial_adapter(run: FineTuneRun) -> Path | None:
    """Return the folder of the adapter this run goes on from, or None where it starts afresh.

    Raises:
        Refused: it is not the one that was inspected.
    """
    uri, expected = run.spec.adapter.init_from, inspection(run).initial_digest
    if uri is None:
        return None
    if (found := identity(uri)) != expected:
        raise Refused(
            "AdapterChanged",
            f"spec.adapter.initFrom: {uri} is {found} now and was {expected} when it was inspected; "
            "put the earlier files back, or create the job again",
        )
    return local(uri, cache_folder())


def load_start(run: FineTuneRun, device: torch.device) -> model.Trainee:
    """Return what training has started from: the base, or with the earlier adapter on it."""
    spec, added = run.spec, dataset.added_tokens(dataset_folder(run))
    return model.build(
        base_folder(run),
        spec.adapter,
        spec.optimization.seed,
        device,
        added=added,
        init_from=initial_adapter(run),
    )


def load_tuned(run: FineTuneRun, device: torch.device, dtype: torch.dtype) -> Any:
    """Return the base with the trained adapter, in evaluation mode."""
    spec, added = run.spec, dataset.added_tokens(dataset_folder(run))
    tuned = model.assemble(base_folder(run), spec.adapter, spec.optimization.seed, device, dtype, added)
    adapters.put(tuned, adapter_folder(run))
    return tuned.eval()


def input_digests(run: FineTuneRun, *stages: str) -> dict[str, str]:
    """Return the digests of the base model, of the adapter gone on from, and of what `stages` published, by role.

    Raises:
        Refused: one of the stages has not published.
    """
    facts = inspection(run)
    digests = {"base": facts.base_digest}
    if facts.initial_digest:
        digests["initial"] = facts.initial_digest
    for stage in stages:
        found = reference(_uri(run, stage))
        if found is None:
            raise Refused("NotPublished", f"{_uri(run, stage)} is gone; run the {stage} stage again")
        digests[STAGE_KINDS[stage]] = found.digest
    return digests


def _open(run: FineTuneRun, stage: str) -> Path:
    return open_artifact(_uri(run, stage), cache_folder())[0]


def _uri(run: FineTuneRun, stage: str) -> str:
    key: str = getattr(inspection(run).keys, stage)
    return uri_of(run.spec.output.uri, run.namespace, STAGE_KINDS[stage], key)
