"""What a person, and a program, reads of a resource at a glance."""

from objects import deployment, job
from rich.console import Console, RenderableType

from anneal_cli import overview
from anneal_cli.overview import duration


def drawn(shown: RenderableType) -> str:
    console = Console(width=150)
    with console.capture() as printed:
        console.print(shown)
    return printed.get()


def test_a_run_shows_progress_losses_and_what_it_waits_for() -> None:
    view = overview.overview(job())
    assert (view.phase, view.percent, view.over) == ("Training", 50, False)
    assert view.figures == {
        "step": "40/80",
        "loss": "1.25",
        "validation": "1.5",
        "left": "1h02m",
        "restarts": "1",
        "nodes": "2",
    }
    text = drawn(overview.one(view))
    for said in (
        "FineTuneJob tune: Training",
        "step 40/80",
        "RankKilled: rank 1 was killed",
        "write",
        "1.6",
        "━",
    ):
        assert said in text


def test_scores_stand_beside_the_losses_of_their_task() -> None:
    scores = [{"name": "write", "baseLoss": "2", "tunedLoss": "1"}]
    view = overview.overview(job(status={"phase": "Complete", "scores": scores}))
    assert view.over
    assert view.tables["tasks"] == [{"task": "write", "validation": "", "base": "2", "tuned": "1"}]


def test_a_deployment_shows_its_versions() -> None:
    versions = [
        {
            "digest": "sha256:1",
            "run": "abc",
            "stage": "Serving",
            "trafficPercent": 100,
            "gate": {"logitKL": "0.02"},
        }
    ]
    view = overview.overview(
        deployment(versions=versions, readyReplicas=1, desiredReplicas=2, url="http://serve")
    )
    text = drawn(overview.many([view, overview.overview(job())]))
    assert "replicas 1/2  url http://serve" in text
    assert "50%" in text
    row = drawn(overview.one(view)).splitlines()[-1].split()
    assert row == ["abc", "Serving", "100%", "0.02"]


def test_a_resource_without_a_status_is_pending() -> None:
    view = overview.overview(job(status={}))
    assert (view.phase, view.percent, view.message) == ("Pending", None, "")
    assert overview.line(view) == "FineTuneJob tune Pending  restarts 0"


def test_what_is_over_well_waits_for_nothing() -> None:
    held = [
        {
            "type": "Training",
            "status": "False",
            "reason": "Old",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        },
        {
            "type": "Complete",
            "status": "True",
            "reason": "Succeeded",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        },
    ]
    assert overview.overview(job(status={"conditions": held})).message == ""


def test_durations() -> None:
    assert [duration(s) for s in (None, 5, 65, 3600)] == ["", "5s", "1m05s", "1h00m"]
