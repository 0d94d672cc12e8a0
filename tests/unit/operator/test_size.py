"""When a group goes on with fewer nodes, and when all of them are tried again."""

import pytest
from views import at, ended, stamp, status
from world import finetunejob

from anneal_api.finetunejob import Attempt, FineTuneJobSpec, Workers
from anneal_operator.finetunejob import size
from anneal_operator.finetunejob.causes import Cause

WORKERS = Workers(nodes=4, min_nodes=2)


def timeout(number: int, nodes: int = 4) -> Attempt:
    return ended(number, 600, Cause.START_TIMEOUT, nodes=nodes)


@pytest.mark.parametrize(
    ("attempts", "placed", "room", "avoiding", "wanted"),
    [
        ([timeout(1)], 3, None, False, 4),
        ([timeout(1), timeout(2)], 3, None, False, 3),
        ([timeout(1), timeout(2)], 3, None, True, 4),
        ([timeout(1)], 3, 3, False, 3),
        ([timeout(1)], 3, 4, False, 4),
        ([timeout(1)], 0, 1, False, 2),
        ([timeout(1), timeout(2)], 4, 4, False, 3),
        ([timeout(1), ended(2, 9, Cause.CRASH, nodes=4), timeout(3)], 3, None, False, 4),
        ([timeout(1, 2), timeout(2, 2)], 1, 1, False, 2),
        ([ended(1, 9, Cause.RESIZED, nodes=3), timeout(2)], 3, 4, False, 3),
    ],
)
def test_size_after_a_group_that_did_not_start(
    attempts: list[Attempt], placed: int, room: int | None, avoiding: bool, wanted: int
) -> None:
    assert size.after_timeout(attempts, WORKERS, placed, room, avoiding) == wanted


def test_without_min_nodes_the_size_never_changes() -> None:
    tried = [timeout(1), timeout(2), timeout(3)]
    assert size.after_timeout(tried, Workers(nodes=4), 1, 1, False) == 4


def spec(**more: object) -> FineTuneJobSpec:
    job = finetunejob(workers={"nodes": 4, "minNodes": 2, "startTimeoutSeconds": 600}, **more)
    return FineTuneJobSpec.model_validate(job["spec"])


def trains(number: int = 1, nodes: int = 3) -> Attempt:
    return Attempt(number=number, nodes=nodes, started=stamp(0), training=stamp(60), first_step=11, step=50)


def may_grow(*attempts: Attempt, latest: int = 40, room: int | None = 4, minutes: float = 40) -> bool:
    held = status(*attempts, nodes=3, checkpoints={"latest": latest})
    return size.may_grow(held, spec(), room, at(60 * minutes))


def test_a_group_grows_at_a_checkpoint_of_its_own_after_half_an_hour_when_there_is_room() -> None:
    assert may_grow(trains())
    assert may_grow(trains(), room=None)
    assert not may_grow(trains(), room=3)
    assert not may_grow(trains(), minutes=20)
    assert not may_grow(trains(), latest=10)
    assert not may_grow(trains(nodes=4))
    held = status(trains(), nodes=3, checkpoints={"latest": 40})
    assert not size.may_grow(held, spec(queueName="q"), 4, at(9999))


def test_growing_in_vain_is_tried_less_often() -> None:
    vain = [ended(1, 9, Cause.RESIZED, nodes=3), timeout(2)]
    assert not may_grow(*vain, trains(3), minutes=40)
    assert may_grow(*vain, trains(3), minutes=70)


def wanted(*attempts: Attempt, room: int | None = 4) -> int:
    return size.wanted(status(*attempts, nodes=3), WORKERS, room)


def test_a_smaller_group_that_ends_is_followed_by_a_full_one_when_there_is_room() -> None:
    assert wanted(trains()) == 4
    assert wanted(trains(), room=3) == 3
    assert wanted(trains(), room=None) == 3
    assert wanted(timeout(1)) == 3
    assert wanted(trains(1), timeout(2), trains(3)) == 3


def test_a_group_that_grew_has_little_time_to_be_whole() -> None:
    grown = [ended(1, 9, Cause.RESIZED, nodes=3), trains(2, nodes=4)]
    assert size.start_timeout(grown, spec().workers) == size.GROW_TIMEOUT
    assert size.start_timeout([trains()], spec().workers) == 600


def test_the_next_size_is_that_of_the_status_within_the_plan() -> None:
    assert size.wanted(status(), WORKERS, 4) == 4
    assert size.wanted(status(nodes=3), WORKERS, 4) == 3
