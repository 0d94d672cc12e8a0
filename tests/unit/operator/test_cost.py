"""Accelerator-seconds: added up as attempts end, once each, however short a status's memory is."""

from views import ended, stamp, status
from world import NAMESPACE, World, failed, finetunejob, inspected

from anneal_api.finetunejob import Attempt, FineTuneJobSpec
from anneal_operator.finetunejob.cost import charged
from anneal_operator.metrics import Metrics
from anneal_operator.reconciler import Reconciler


def spec(**fields: object) -> FineTuneJobSpec:
    workers = {"nodes": 2, "acceleratorsPerNode": 4}
    return FineTuneJobSpec.model_validate(finetunejob(workers=workers, **fields)["spec"])


def test_an_attempt_counts_once_when_it_has_ended() -> None:
    running = status(Attempt(number=1, nodes=2, started=stamp(0)))
    assert charged(status(), running, spec()) == 0
    over = status(ended(1, 100))
    assert charged(running, over, spec()) == 100 * 2 * 4
    after = over.model_copy(update={"accelerator_seconds": 800})
    assert charged(after, after, spec()) == 800


def test_attempts_that_a_status_no_longer_keeps_are_not_lost() -> None:
    before = status(ended(1, 100), acceleratorSeconds=800)
    assert charged(before, status(ended(2, 50, nodes=1)), spec()) == 800 + 50 * 4


def test_time_in_a_queue_costs_nothing() -> None:
    waited = status(ended(1, 100), ended(2, 100, training=stamp(90)))
    assert charged(status(), waited, spec(queueName="q")) == 10 * 2 * 4


def test_a_run_with_a_crash_costs_what_its_attempts_held() -> None:
    world, counted = World(), Metrics()
    world.operator = Reconciler(world.server, world.pods, world.config, lambda: world.now, counted)
    world.player.default["inspect"] = inspected()
    world.player.scripts["train"] = [failed("Failed", "RankKilled"), None, None, None]
    world.server.put(finetunejob())
    world.run("FineTuneJob", "tune", 60)
    told = world.resource("FineTuneJob", "tune")["status"]
    assert told["phase"] == "Complete"
    assert len(told["attempts"]) == 2
    assert told["acceleratorSeconds"] > 0
    line = f'anneal_accelerator_seconds_total{{kind="FineTuneJob",name="tune",namespace="{NAMESPACE}"}} {told["acceleratorSeconds"]}'
    assert line in counted.text()
    world.server.remove("FineTuneJob", NAMESPACE, "tune")
    world.operator.reconcile(world.key("FineTuneJob", "tune"))
    assert line not in counted.text()
