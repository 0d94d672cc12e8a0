"""The report of a run is one page that needs nothing else, and hides nothing."""

import re
from html.parser import HTMLParser

import pytest
from objects import SAMPLES, STATUS, job, steps

from anneal_api.finetunejob import Attempt
from anneal_cli import report

SCORES = [
    {
        "name": "write",
        "baseLoss": "2",
        "tunedLoss": "1.5",
        "basePerplexity": "7.39",
        "tunedPerplexity": "4.48",
        "rows": 16,
    }
]


class Wellformed(HTMLParser):
    """Counts what is opened and closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [
            str(value) for name, value in attrs if name in ("src", "href", "xlink:href", "data")
        ]
        if tag not in ("meta", "br", "path", "use", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "use", "rect"):
            assert self.open.pop() == tag


@pytest.mark.slow  # matplotlib takes two seconds to import
def test_the_page_tells_curves_scores_faults_cost_and_needs_no_network() -> None:
    page = report.page(job(status={**STATUS, "scores": SCORES, "acceleratorSeconds": 4711}), [], steps())
    for said in (
        "demo/tune: Training",
        "<svg",
        "-25.0%",
        "7.39 → 4.48",
        "4711",
        "Hang",
        "node-3",
        "tasks[write].weight",
        "40 of 80",
    ):
        assert said in page
    parser = Wellformed()
    parser.feed(page)
    assert parser.open == []
    assert all(address.startswith("#") for address in parser.addresses)
    assert not re.search(r"<script|@import|url\((?!#)", page)


def test_what_users_wrote_is_text() -> None:
    page = report.page(job(chatTemplate="<script>alert(1)</script>"), [], [])
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "No step is recorded yet" in page


def test_rows_are_shown_as_text() -> None:
    page = report.page(job(), [], [], SAMPLES)
    assert all(said in page for said in ("tooShort", "b.jsonl:1", "x = 1", "&lt;EMAIL&gt;"))
    assert "<script" not in page
    assert "Rows that were" not in report.page(job(), [], [])


def test_suites_are_told_where_they_were_run() -> None:
    suite = {
        "suite": "humaneval",
        "score": "pass@1",
        "value": "0.7865",
        "interval": "0.72-0.85",
        "problems": 164,
    }
    page = report.page(job(status={**STATUS, "suiteScores": [suite]}), [], [])
    assert all(each in page for each in ("humaneval", "pass@1", "0.7865", "0.72-0.85", "164"))
    assert "Suites" not in report.page(job(), [], [])


def test_a_pace_needs_two_steps() -> None:
    times = {"training": "2026-01-01T00:00:00Z", "ended": "2026-01-01T00:01:30Z"}
    assert report.pace(Attempt.model_validate({"number": 1, **times, "firstStep": 1, "step": 46})) == "2"
    assert report.pace(Attempt.model_validate({"number": 1, **times, "firstStep": 1, "step": 1})) == ""
    assert report.pace(Attempt(number=1)) == ""


def test_a_change_of_nothing_is_not_told() -> None:
    assert [report.change(*pair) for pair in (("2", "1"), ("0", "1"), ("", "1"))] == ["-50.0%", "", ""]
