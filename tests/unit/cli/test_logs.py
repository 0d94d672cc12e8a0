"""Lines of many pods in one stream."""

from anneal_cli import logs


def test_lines_are_merged_by_time_and_those_of_a_pod_keep_their_order() -> None:
    streams = {
        "1/0": ["2026-01-01T00:00:01.5Z step 1", "2026-01-01T00:00:03Z step 2"],
        "1/1": ["2026-01-01T00:00:02Z a b", "2026-01-01T00:00:02Z c"],
    }
    assert [str(line) for line in logs.merged(streams)] == [
        "2026-01-01T00:00:01    1/0 | step 1",
        "2026-01-01T00:00:02    1/1 | a b",
        "2026-01-01T00:00:02    1/1 | c",
        "2026-01-01T00:00:03    1/0 | step 2",
    ]


def test_followed_lines_are_named_by_their_pod() -> None:
    lines = [
        "[pod/tune-train-1-x-0-abc/main] 2026-01-01T00:00:01Z a] b",
        "[pod/other/main] 2026-01-01T00:00:02Z c",
    ]
    got = list(logs.followed(lines, {"tune-train-1-x-0-abc": "1/0"}))
    assert [(line.source, line.text) for line in got] == [("1/0", "a] b"), ("other", "c")]


def test_a_pod_is_named_by_attempt_and_rank_or_by_its_stage() -> None:
    labels = {
        "anneal.dev/attempt": "2",
        "batch.kubernetes.io/job-completion-index": "3",
        "anneal.dev/stage": "train",
    }
    assert logs.source({"metadata": {"name": "p", "labels": labels}}) == "2/3"
    assert logs.source({"metadata": {"name": "p", "labels": {"anneal.dev/stage": "prepare"}}}) == "prepare"
    assert logs.source({"metadata": {"name": "p"}}) == "p"
