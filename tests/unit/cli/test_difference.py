"""What differs between two runs, and nothing else."""

from objects import SPEC, STATUS, job
from rich.console import Console

from anneal_cli import difference
from anneal_cli.difference import Change


def test_only_what_differs_is_told_by_field() -> None:
    other = job(
        "other", status={**STATUS, "restarts": 0}, tasks=[{**SPEC["tasks"][0], "weight": 2}, SPEC["tasks"][1]]
    )
    got = difference.difference(job(), other)
    assert got.spec == [Change("tasks[write].weight", 1.0, 2.0)]
    assert got.results == [Change("restarts", 1, 0)]


def test_what_one_has_and_the_other_has_not() -> None:
    got = difference.difference(job(adapter={"targets": ["q_proj"]}), job())
    assert {c.field: (c.first, c.second) for c in got.spec} == {
        "adapter.targets[0]": ("q_proj", None),
        "adapter.targets": (None, []),
    }


def test_two_equal_runs_say_so() -> None:
    console = Console(width=100)
    with console.capture() as printed:
        console.print(difference.render(difference.difference(job(), job())))
    assert printed.get().split("\n")[:2] == ["spec: no difference", "results: no difference"]
