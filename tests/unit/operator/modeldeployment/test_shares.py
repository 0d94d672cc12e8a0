"""Traffic and replicas of old and new by strategy."""

import pytest

from anneal_api.modeldeployment import Rollout
from anneal_operator.modeldeployment.shares import Replicas, following, replicas


def test_shares_go_up_to_all() -> None:
    rules = Rollout(steps=[10, 10, 50])
    assert [following(rules, percent) for percent in (0, 10, 50, 100)] == [10, 50, 100, 100]
    assert following(Rollout(), 0) == 100


@pytest.mark.parametrize(
    ("strategy", "count", "percent", "old", "new"),
    [
        ("surge", 4, 10, 4, 1),
        ("surge", 4, 50, 4, 2),
        ("surge", 4, 100, 4, 4),
        ("surge", 0, 50, 0, 0),
        ("borrowReplica", 4, 10, 3, 1),
        ("borrowReplica", 4, 50, 2, 2),
        ("borrowReplica", 2, 90, 1, 1),
        ("borrowReplica", 4, 100, 0, 4),
        ("borrowReplica", 1, 10, 0, 1),
        ("borrowReplica", 0, 10, 0, 0),
        ("recreate", 3, 100, 0, 3),
    ],
)
def test_replicas_follow_the_strategy(strategy: str, count: int, percent: int, old: int, new: int) -> None:
    rules = Rollout.model_validate({"strategy": strategy})
    assert replicas(rules, count, percent) == Replicas(old, new)
    if strategy != "surge":
        assert old + new == count, "it needs no accelerator more"
