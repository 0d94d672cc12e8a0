"""Who may hold a Lease, by one's own clock alone."""

from datetime import UTC, datetime

from anneal_operator import lease
from anneal_operator.cluster import rest
from anneal_operator.lease import Sighting

WALL = datetime(2026, 1, 1, tzinfo=UTC)


def stored(holder: str, version: str = "1") -> dict:
    made = lease.made("system", "anneal-operator", holder, WALL)
    return {**made, "metadata": {**made["metadata"], "resourceVersion": version}}


def test_a_rival_waits_for_the_whole_time_since_the_lease_last_changed() -> None:
    seen = lease.sight(None, stored("a"), 100.0)
    seen = lease.sight(seen, stored("a"), 110.0)
    assert not lease.free(seen, "b", 100.0 + lease.DURATION)
    assert lease.free(seen, "b", 100.1 + lease.DURATION)
    renewed = lease.sight(seen, stored("a", "2"), 115.0)
    assert not lease.free(renewed, "b", 100.1 + lease.DURATION)


def test_a_times_far_away_mean_nothing() -> None:
    held = stored("a")
    held["spec"]["renewTime"] = "1999-01-01T00:00:00.000000Z"
    assert not lease.free(Sighting(held, 5.0), "b", 6.0)


def test_what_is_ones_own_or_given_back_is_free_at_once() -> None:
    assert lease.free(Sighting(stored("a"), 0.0), "a", 0.1)
    back = lease.released(stored("a"), WALL)
    assert lease.free(Sighting(back, 0.0), "b", 0.1)
    assert back["metadata"]["resourceVersion"] == "1"


def test_a_change_of_holder_is_counted_and_a_renewal_is_not() -> None:
    first = stored("a")
    assert first["spec"]["leaseTransitions"] == 0
    kept = lease.held(first, "a", datetime(2026, 1, 2, tzinfo=UTC))
    assert (kept["spec"]["leaseTransitions"], kept["spec"]["acquireTime"]) == (
        0,
        first["spec"]["acquireTime"],
    )
    assert kept["spec"]["renewTime"] == "2026-01-02T00:00:00.000000Z"
    taken = lease.held(kept, "b", WALL)
    assert (taken["spec"]["holderIdentity"], taken["spec"]["leaseTransitions"]) == ("b", 1)


def test_a_write_is_given_up_before_a_rival_begins() -> None:
    assert sum(rest.WRITE_TIMEOUT) <= lease.MARGIN < lease.DURATION
    assert sum(rest.LEASE_TIMEOUT) + lease.RENEW < lease.MARGIN
