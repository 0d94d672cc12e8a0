"""A rank: loads the model, joins the group, runs the loop; rank 0 publishes the best adapter."""

import faulthandler
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from anneal_api.artifacts import STAGE_KINDS
from anneal_api.base import wire
from anneal_api.outcome import EXIT_CODES, Outcome, TrainResult
from anneal_api.runs import ENV_ATTEMPT, FineTuneRun
from anneal_runtime.artifacts import open_artifact, publishing, uri_of
from anneal_runtime.errors import Refused, TryAgain
from anneal_runtime.stage import read_run
from anneal_runtime.storage import join, local
from anneal_trainers import checkpoint, dataset, loop, model
from anneal_trainers.channel import Channel
from anneal_trainers.group import join_group
from anneal_trainers.inspect_stage import cache_folder
from anneal_trainers.prepare import inspection, producer
from anneal_trainers.sources import base_uri
from anneal_trainers.tuned import input_digests

ENV_RANK, ENV_LOCAL_RANK, ENV_WORLD, ENV_MEET = "RANK", "LOCAL_RANK", "WORLD_SIZE", "ANNEAL_MEET"


def main() -> int:
    """Run this rank; say by channel and exit code what became of it."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    channel = Channel.from_environment()
    outcome = _outcome(channel)
    channel.send({"outcome": wire(outcome)})
    return EXIT_CODES[outcome.verdict]


def _outcome(channel: Channel) -> Outcome:
    try:
        result = _work(read_run(FineTuneRun), channel)
        return Outcome(verdict="Succeeded", reason="Done", result={} if result is None else wire(result))
    except Refused as error:
        return Outcome(verdict="Refused", reason=error.reason, message=error.message[:1000])
    except TryAgain as error:
        return Outcome(verdict="Retry", reason=error.reason, message=error.message[:1000])
    except torch.OutOfMemoryError as error:
        return Outcome(verdict="Failed", reason="OutOfMemory", message=str(error)[:1000])
    except Exception as error:  # the boundary of the process
        traceback.print_exc()
        return Outcome(verdict="Failed", reason=type(error).__name__, message=str(error)[:1000])


def _work(config: FineTuneRun, channel: Channel) -> TrainResult | None:
    stop = loop.StopFlag()
    stop.listen()
    rank, world = int(os.environ[ENV_RANK]), int(os.environ[ENV_WORLD])
    local_rank = int(os.environ[ENV_LOCAL_RANK])
    device = model.pick_device(local_rank)
    group = join_group(rank, world, os.environ[ENV_MEET], config.spec.workers.start_timeout_seconds)
    channel.beat("load")
    run = _assemble(config, channel, stop, device, group)
    if stop.asked:
        raise TryAgain("Preempted", "stopped by SIGTERM before the first step")
    state = loop.train(run)
    group.leave()
    channel.beat("publish")
    return publish(config, run, state) if rank == 0 else None


def _assemble(
    config: FineTuneRun, channel: Channel, stop: loop.StopFlag, device: torch.device, group: Any
) -> loop.Run:
    spec, facts = config.spec, inspection(config)
    folder, _ = open_artifact(
        uri_of(spec.output.uri, config.namespace, STAGE_KINDS["prepare"], facts.keys.prepare), cache_folder()
    )
    base = local(base_uri(spec.base_model), cache_folder())
    trainee = model.build(base, spec.adapter, spec.optimization.seed, device)
    channel.beat("load")
    return loop.Run(
        spec=spec,
        tasks=dataset.task_names(folder),
        train=dataset.open_split(folder, "train"),
        validation=dataset.open_split(folder, "validation"),
        trainee=trainee,
        group=group,
        store=checkpoint.Store(
            runs_folder(config), int(os.environ.get(ENV_ATTEMPT, "1")), facts.keys.train, spec.checkpoint.keep
        ),
        channel=channel,
        stop=stop,
        timer=checkpoint.Timer(spec.checkpoint.every_minutes),
        attempt=int(os.environ.get(ENV_ATTEMPT, "1")),
    )


def runs_folder(config: FineTuneRun) -> str:
    """Return where this run's working state lies."""
    return join(config.spec.output.uri, config.namespace, "runs", f"{config.name}-{config.uid[:8]}")


def publish(config: FineTuneRun, run: loop.Run, state: checkpoint.State) -> TrainResult:
    """Publish the best checkpoint's adapter, read back from the store and so verified."""
    facts, trainee = inspection(config), run.trainee
    best = run.store.at(state.best_step)
    if best is None:
        raise TryAgain(
            "CheckpointLost", f"the best checkpoint, of step {state.best_step}, cannot be read back"
        )
    trainee.flat.copy_(best[1]["adapter"])
    loss = min(state.losses) if state.losses else state.train_loss
    inputs = input_digests(config, "prepare")
    with publishing(
        config.spec.output.uri,
        config.namespace,
        STAGE_KINDS["train"],
        facts.keys.train,
        producer=producer(config, "train"),
        inputs=inputs,
    ) as publication:
        write_adapter(trainee.model, publication.folder)
        publication.metadata = {
            "step": state.step,
            "bestStep": state.best_step,
            "validationLoss": loss,
            "validationLosses": state.losses,
            "taskLosses": state.best_task_losses,
            "skippedSteps": state.skipped,
        }
    return TrainResult(
        artifact=publication.published, step=state.step, best_step=state.best_step, validation_loss=loss
    )


def write_adapter(peft_model: Any, folder: Path) -> None:
    """Write adapter_model.safetensors and adapter_config.json in peft's layout."""
    tensors = {
        name.replace(".default", ""): p.detach().cpu().contiguous()
        for name, p in peft_model.named_parameters()
        if p.requires_grad
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = peft_model.peft_config["default"].to_dict() | {"inference_mode": True}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True, default=_plain))


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(getattr(value, "value", value))


if __name__ == "__main__":
    sys.exit(main())
