"""A rank: loads the model, joins the group, runs the loop; rank 0 publishes the best adapter."""

import faulthandler
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from anneal_api.artifacts import STAGE_KINDS
from anneal_api.base import Model, wire
from anneal_api.outcome import EXIT_CODES, Outcome, TrainResult
from anneal_api.runs import ENV_ATTEMPT, FineTuneRun, runs_folder
from anneal_runtime.artifacts import publishing
from anneal_runtime.errors import Refused, TryAgain
from anneal_runtime.stage import read_run
from anneal_runtime.storage import local
from anneal_trainers import tuned
from anneal_trainers.base import adapters, model
from anneal_trainers.data import dataset
from anneal_trainers.data.sources import base_uri
from anneal_trainers.inspect_stage import cache_folder
from anneal_trainers.pod import out_of_memory, telemetry
from anneal_trainers.pod.channel import Channel
from anneal_trainers.pod.group import is_peer_loss, join_group
from anneal_trainers.prepare import inspection, producer
from anneal_trainers.records import checkpoint
from anneal_trainers.records.store import Store, Timer
from anneal_trainers.training import loop
from anneal_trainers.training.run import Run, StopFlag

ENV_RANK, ENV_LOCAL_RANK, ENV_WORLD, ENV_MEET = "RANK", "LOCAL_RANK", "WORLD_SIZE", "ANNEAL_MEET"


def main() -> int:
    """Run this rank."""
    return run_rank(train)


def run_rank(work: Callable[[FineTuneRun, Channel], Model | None]) -> int:
    """Do the work of a rank; say by channel and exit code what became of it."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    channel = Channel.from_environment()
    outcome = _outcome(work, channel)
    channel.send({"outcome": wire(outcome)})
    return EXIT_CODES[outcome.verdict]


def _outcome(work: Callable[[FineTuneRun, Channel], Model | None], channel: Channel) -> Outcome:
    try:
        config = read_run(FineTuneRun)
        with out_of_memory.explained(channel, config.spec):
            result = work(config, channel)
        return Outcome(verdict="Succeeded", reason="Done", result={} if result is None else wire(result))
    except Refused as error:
        return Outcome(verdict="Refused", reason=error.reason, message=error.message[:1000])
    except TryAgain as error:
        return Outcome(verdict="Retry", reason=error.reason, message=error.message[:1000])
    except Exception as error:  # the boundary of the process
        traceback.print_exc()
        if is_peer_loss(error):
            return Outcome(verdict="Retry", reason="PeerLost", message=str(error)[:1000])
        return Outcome(verdict="Failed", reason=type(error).__name__, message=str(error)[:1000])


def train(config: FineTuneRun, channel: Channel) -> TrainResult | None:
    """Train with the group, and publish from its first rank."""
    run = assemble(config, channel, _store(config, channel))
    curves = telemetry.of_run(config, runs_folder(config)) if run.leads else telemetry.Telemetry({})
    run.record = _recorder(run, curves)
    run.stop.listen()  # until now SIGTERM has ended this rank at once: there was nothing to save
    try:
        state = loop.train(run)
    finally:
        curves.close()
    run.group.leave()
    if not run.leads:
        return None
    channel.beat("publish")
    result = publish(config, run, state)
    run.store.retire(state.best_step)
    return result


def assemble(config: FineTuneRun, channel: Channel, store: Store) -> Run:
    """Meet the other ranks and load what the loop works on."""
    spec, device = config.spec, model.pick_device(int(os.environ[ENV_LOCAL_RANK]))
    rank, world = int(os.environ[ENV_RANK]), int(os.environ[ENV_WORLD])
    group = join_group(rank, world, os.environ[ENV_MEET], spec.workers.start_timeout_seconds)
    channel.beat("load")
    folder = tuned.dataset_folder(config)
    trainee = model.build(
        local(base_uri(spec.base_model), cache_folder()),
        spec.adapter,
        spec.optimization.seed,
        device,
        added=dataset.added_tokens(folder),
        init_from=tuned.initial_adapter(config),
        strategy=spec.workers.strategy,
        group=group,
    )
    channel.beat("load")
    return Run(
        spec=spec,
        tasks=dataset.task_names(folder),
        train=dataset.open_split(folder, "train"),
        validation=dataset.open_split(folder, "validation"),
        trainee=trainee,
        group=group,
        store=store,
        channel=channel,
        stop=StopFlag(),
        timer=Timer(spec.checkpoint.every_minutes),
        attempt=store.attempt,
    )


def _store(config: FineTuneRun, channel: Channel) -> Store:
    attempt = int(os.environ.get(ENV_ATTEMPT, "1"))
    key, keep = inspection(config).keys.train, config.spec.checkpoint.keep

    def tell(writing: bool) -> None:
        known = {} if store.latest is None else {"checkpoint": store.latest}
        channel.send({"writing": writing, **known})

    store = Store(runs_folder(config), attempt, key, keep, tell=tell)
    return store


def _recorder(run: Run, curves: telemetry.Telemetry) -> Callable[[int, dict[str, float]], None]:
    """Return what takes in the figures of a step: for the curves, and by the launcher for /metrics."""

    def record(step: int, figures: dict[str, float]) -> None:
        figures = figures | {"checkpoint_stall_seconds": run.store.waited}
        curves.record(step, figures)
        run.channel.send({"figures": figures})

    return record


def publish(config: FineTuneRun, run: Run, state: checkpoint.State) -> TrainResult:
    """Publish the best checkpoint's adapter. It and the final one are read back from the store, and so verified.

    Raises:
        TryAgain: one of them is not what was saved.
        NonFiniteLoss: no checkpoint is the best.
    """
    check_losses(state)
    facts, found = inspection(config), {step: run.store.at(step) for step in {state.step, state.best_step}}
    for step, content in found.items():
        if content is None:
            raise TryAgain("CheckpointLost", f"the checkpoint of step {step} cannot be read back")
        if step == state.best_step:
            run.trainee.flat.copy_(content[1]["adapter"])
    with publishing(
        config.spec.output.uri,
        config.namespace,
        STAGE_KINDS["train"],
        facts.keys.train,
        producer=producer(config, "train"),
        inputs=tuned.input_digests(config, "prepare"),
    ) as publication:
        adapters.write(run.trainee.model, publication.folder, facts.base_digest)
        publication.metadata = metadata(state, run.tasks)
    return TrainResult(
        artifact=publication.published,
        step=state.step,
        best_step=state.best_step,
        loss=state.train_loss,
        validation_loss=publication.metadata["validationLoss"],
    )


def check_losses(state: checkpoint.State) -> None:
    """Raise NonFiniteLoss where no validation of the last stage gave a number."""
    if state.losses and not math.isfinite(min(state.losses)):
        raise loop.NonFiniteLoss(
            f"none of {len(state.losses)} validations had a finite loss, so no checkpoint is the best; lower "
            "spec.optimization.learningRate, or look at the validation rows"
        )


def metadata(state: checkpoint.State, tasks: Sequence[str]) -> dict[str, Any]:
    """Return what readers of the adapter are told of its training; losses and passes are of the last stage."""
    return {
        "step": state.step,
        "bestStep": state.best_step,
        "trainLoss": state.train_loss,
        "validationLoss": min(state.losses, default=None),
        "validationLosses": state.losses,
        "firstTaskLosses": state.first_task_losses,
        "taskLosses": state.best_task_losses,
        "passes": dict(zip(tasks, state.passes, strict=True)),
        "skippedSteps": state.skipped,
    }


if __name__ == "__main__":
    sys.exit(main())
