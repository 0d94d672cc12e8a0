"""Which replica takes a request; who waits; who is sent away."""

import asyncio

import pytest

from anneal_serving.gateway.balancer import Balancer, Moved, prefix_of, retry_after
from anneal_serving.gateway.errors import ApiError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def balancer(*addresses: str, slots: int = 2, queue: int = 2, clock: Clock | None = None) -> Balancer:
    made = Balancer(slots, queue, clock or Clock())
    made.update(set(addresses))
    return made


async def test_the_fewest_outstanding_tokens_win() -> None:
    replicas = balancer("a", "b")
    first = await replicas.acquire(1000, 1)
    second = await replicas.acquire(10, 1)
    third = await replicas.acquire(10, 1)
    assert [first.address, second.address, third.address] == ["a", "b", "b"]


async def test_tokens_that_arrived_are_not_outstanding() -> None:
    replicas = balancer("a", "b")
    first = await replicas.acquire(100, 1)
    await replicas.acquire(50, 1)
    first.progress(99)
    assert (await replicas.acquire(1, 1)).address == "a"


async def test_who_finds_no_slot_waits_in_order() -> None:
    replicas = balancer("a", slots=1)
    running = await replicas.acquire(1, 1)
    waiters = [asyncio.create_task(replicas.acquire(1, 5)) for _ in range(2)]
    await asyncio.sleep(0)
    assert replicas.waiting == 2
    running.release()
    running.release()
    first = await waiters[0]
    assert not waiters[1].done()
    first.release()
    (await waiters[1]).release()


async def test_a_full_queue_is_429_with_retry_after() -> None:
    replicas = balancer(queue=0)
    with pytest.raises(ApiError) as caught:
        await replicas.acquire(1, 1)
    assert caught.value.status == 429
    assert int(caught.value.headers["Retry-After"]) >= 1


async def test_a_request_is_held_until_a_replica_is_ready() -> None:
    replicas = balancer()
    waiter = asyncio.create_task(replicas.acquire(1, 5))
    await asyncio.sleep(0)
    replicas.update({"new"})
    assert (await waiter).address == "new"


async def test_held_too_long_is_503_and_leaves_the_queue() -> None:
    replicas = balancer()
    with pytest.raises(ApiError, match="no replica is ready") as caught:
        await replicas.acquire(1, 0.01)
    assert caught.value.status == 503
    assert replicas.waiting == 0


async def test_who_gives_up_leaves_the_queue() -> None:
    replicas = balancer("a", slots=1)
    running = await replicas.acquire(1, 1)
    waiter = asyncio.create_task(replicas.acquire(1, 5))
    await asyncio.sleep(0)
    waiter.cancel()
    running.release()
    await asyncio.gather(waiter, return_exceptions=True)
    assert replicas.waiting == 0
    assert (await replicas.acquire(1, 0.1)).address == "a"


async def test_a_slot_that_comes_with_the_cancellation_is_not_lost() -> None:
    replicas = balancer("a", slots=1)
    running = await replicas.acquire(1, 1)
    waiter = asyncio.create_task(replicas.acquire(1, 5))
    await asyncio.sleep(0)
    running.release()
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    assert (await replicas.acquire(1, 0.1)).address == "a"


async def test_a_failed_replica_rests_longer_each_time() -> None:
    clock = Clock()
    replicas = balancer("a", "b", clock=clock)
    (await replicas.acquire(1, 1)).release(failed=True)
    assert (await replicas.acquire(1, 1)).address == "b"
    clock.now += 1.5
    again = await replicas.acquire(0, 1)
    assert again.address == "a"
    again.release(failed=True)
    clock.now += 1.5
    assert (await replicas.acquire(0, 1)).address == "b"


async def test_what_runs_on_a_replica_that_left_goes_on() -> None:
    replicas = balancer("a")
    running = await replicas.acquire(5, 1)
    replicas.update({"b"})
    running.progress(1)
    running.release()
    assert replicas.addresses == ["b"]


async def test_a_replica_that_stays_keeps_its_count() -> None:
    replicas = balancer("a")
    await replicas.acquire(100, 1)
    replicas.update({"a", "b"})
    assert (await replicas.acquire(1, 1)).address == "b"


async def test_closing_sends_those_who_wait_to_the_new_route() -> None:
    replicas = balancer()
    waiter = asyncio.create_task(replicas.acquire(1, 5))
    await asyncio.sleep(0)
    replicas.close()
    with pytest.raises(Moved):
        await waiter
    with pytest.raises(Moved):
        await replicas.acquire(1, 1)


async def test_other_gateways_requests_count() -> None:
    replicas = balancer("a", "b")
    await replicas.acquire(10, 1)
    replicas.report("b", 1, 0.1)
    replicas.report("a", 1, 0.1)  # this gateway's own
    assert (await replicas.acquire(10, 1)).address == "a"


async def test_a_replica_full_of_others_requests_is_waited_for_until_it_says_otherwise() -> None:
    clock = Clock()
    replicas = balancer("a", clock=clock)
    replicas.report("a", 2, 0.5)
    waiter = asyncio.create_task(replicas.acquire(1, 5))
    await asyncio.sleep(0)
    assert not waiter.done()
    replicas.report("a", 1, 0.5)
    assert (await waiter).address == "a"


async def test_an_old_report_does_not_count() -> None:
    clock = Clock()
    replicas = balancer("a", clock=clock)
    replicas.report("a", 2, 0.5)
    clock.now += 2.5
    assert (await replicas.acquire(1, 1)).address == "a"


async def test_a_replica_without_kv_cache_comes_last() -> None:
    replicas = balancer("a", "b")
    replicas.report("a", 0, 0.97)
    assert (await replicas.acquire(500, 1)).address == "b"
    assert (await replicas.acquire(1, 1)).address == "b"


PROMPT = list(range(200))


async def test_a_known_prefix_draws_a_request_to_its_replica() -> None:
    replicas = balancer("a", "b", slots=9)
    (await replicas.acquire(1, 1)).release()
    held = await replicas.acquire(5, 1)
    (await replicas.acquire(210, 1, prefix_of(PROMPT))).release()
    held.release()
    # b has seen three blocks of this prompt; a comes first by name.
    longer = prefix_of([*PROMPT[:192], *range(900, 1100)])
    assert (await replicas.acquire(1, 1, longer)).address == "b"
    assert (await replicas.acquire(1, 1, prefix_of(range(500, 700)))).address == "a"


async def test_a_prefix_is_worth_its_tokens_and_no_more() -> None:
    replicas = balancer("a", "b", slots=9)
    first = await replicas.acquire(210, 1, prefix_of(PROMPT))
    assert first.address == "a"
    assert (await replicas.acquire(1, 1, prefix_of(PROMPT))).address == "b"
    first.progress(200)
    assert (await replicas.acquire(1, 1, prefix_of(range(500, 700)))).address == "b"


def test_a_prefix_is_hashed_block_by_block() -> None:
    assert prefix_of(PROMPT[:63]) == ()
    assert len(prefix_of(PROMPT)) == 3
    assert prefix_of(PROMPT)[:2] == prefix_of([*PROMPT[:128], 7])
    assert prefix_of(PROMPT)[1] != prefix_of(PROMPT[64:])[0]
    assert len(prefix_of(range(10_000))) == 32


def test_retry_after_is_the_time_the_queue_needs() -> None:
    assert retry_after(waiting=7, slots=4, seconds=3.0) == 6
    assert retry_after(waiting=0, slots=0, seconds=0.1) == 1
