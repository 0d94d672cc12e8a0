"""Faults of a running group on real nodes: it ends, goes on elsewhere, and comes to the very result of a quiet run.

The rows that are printed are those of the table in docs/reliability.md.
"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from tests.cluster import group, witness
from tests.cluster.group import SAVED_EVERY, Times, cluster
from tests.cluster.kube import Json, Kube

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def quiet(team: Kube) -> Callable[[], tuple[str, str]]:
    """A run to which nothing happens, beside the first of the others."""
    return group.quiet(team)


def signalled(number: signal.Signals) -> Callable[[Kube, Json], None]:
    """Return what sends a signal to the first rank of a pod."""
    return lambda team, pod: os.kill(witness.processes(pod, group.RANK)[0], number)


def deleted(team: Kube, pod: Json) -> None:
    team.run("delete", "pod", pod["metadata"]["name"], "--wait=false")


def stopped(team: Kube, pod: Json) -> None:
    cluster("node-stop", pod["spec"]["nodeName"])


def powered(team: Kube, pod: Json) -> None:
    cluster("node-start", pod["spec"]["nodeName"])


def cut(team: Kube, pod: Json) -> None:
    cluster("partition", pod["spec"]["nodeName"])
    time.sleep(60)  # the length of the cut, not a wait for something
    cluster("heal", pod["spec"]["nodeName"])


def nothing(team: Kube, pod: Json) -> None:
    """Nothing to mend."""


@dataclass(frozen=True)
class Fault:
    """What is done to a pod of the group, what the attempt must say of it, and how soon the group must end."""

    strike: Callable[[Kube, Json], None]
    cause: str
    soon: Callable[[Times], bool]
    mend: Callable[[Kube, Json], None] = nothing
    elsewhere: bool = False
    """The next group must stay away from the pod's node."""
    away: bool = False
    """The node can be asked nothing."""


def within(seconds: float) -> Callable[[Times], bool]:
    """Return a check that the group ended so soon after the cluster knew."""
    return lambda times: max(times.ended, times.over) - times.known <= seconds


FAULTS = {
    # The kubelet's own delay lies between the launcher's end and the API server's word of it.
    "rank-killed": Fault(
        signalled(signal.SIGKILL), "Crash", lambda times: times.over <= 2 + times.known - times.alone
    ),
    "pod-deleted": Fault(deleted, "Eviction", within(15)),
    "node-stopped": Fault(stopped, "NodeLost", within(15), powered, elsewhere=True, away=True),
    "link-cut": Fault(cut, "NodeLost", within(15), elsewhere=True, away=True),
    # The launcher gives ranks a second for their stacks.
    "rank-frozen": Fault(
        signalled(signal.SIGSTOP), "Hang", lambda times: times.over <= 60 + 3, elsewhere=True
    ),
}


def struck(team: Kube, quiet: Callable[[], tuple[str, str]], fault: Fault, name: str) -> Times:
    """Strike a group in the middle, hold its end against a quiet run's; return what happened when."""
    team.apply(group.job(name))
    with group.observed(team, name) as seen:
        seen.wait(SAVED_EVERY + 3, SAVED_EVERY)
        pod = seen.pods[-1]
        moment = time.time()
        try:
            fault.strike(team, pod)
            assert group.result(team, name) == quiet()
        finally:
            fault.mend(team, pod)
        times = group.times(seen, moment, pod["spec"]["nodeName"] if fault.away else "")
    first, second = team.get("finetunejob", name)["status"]["attempts"][:2]
    print(f"\n{times.row(name, first['cause'])}")
    assert first["cause"] == fault.cause, first
    assert times.lost <= SAVED_EVERY
    assert second["nodes"] == first["nodes"]
    if fault.elsewhere:
        assert first["node"] == pod["spec"]["nodeName"]
        assert pod["spec"]["nodeName"] not in {p["spec"]["nodeName"] for p in group.pods(team, name)}
    return times


def test_a_group_whose_rank_was_killed_comes_to_the_same_end(
    team: Kube, quiet: Callable[[], tuple[str, str]]
) -> None:
    # Its seconds are told and not judged: a busy machine would be judged with them.
    struck(team, quiet, FAULTS["rank-killed"], "killed")


@pytest.mark.full
@pytest.mark.parametrize("name", FAULTS)
def test_a_struck_group_ends_in_time(team: Kube, quiet: Callable[[], tuple[str, str]], name: str) -> None:
    times = struck(team, quiet, FAULTS[name], name)
    assert FAULTS[name].soon(times), times
