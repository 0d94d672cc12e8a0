"""The report's page: every figure is on it, nothing from a row is markup, nothing is fetched."""

import re
from typing import Any

from anneal_trainers.corpus.page import page

TASK = {
    "name": "code",
    "read": 1234,
    "units": {"train": 1000, "validation": 30},
    "rows": {"train": 1000, "validation": 30},
    "tokens": {"train": 90_000, "validation": 2_700},
    "dropped": {"duplicate": 200, "fewWords": 4},
    "languages": {"python": {"read": 1200, "kept": 1001, "dropped": {"fewWords": 4, "duplicate": 195}}},
    "personal": {"email": 7},
    "lengths": {"64": 30, "128": 1000},
}
PLACE = {"task": "code", "file": "a.py", "line": 3}
REPORT: dict[str, Any] = {
    "tasks": [TASK],
    "duplicates": {"rows": 200, "groups": 50, "largest": [{**PLACE, "copies": 77}]},
    "hits": [
        {
            **PLACE,
            "suite": "humaneval",
            "problem": "HumanEval/3",
            "shared": "ten words",
            "score": 0.0,
            "defines": "",
        },
        {**PLACE, "suite": "humaneval", "problem": "HumanEval/4", "shared": "", "score": 0.75, "defines": ""},
        {
            **PLACE,
            "suite": "humaneval",
            "problem": "HumanEval/5",
            "shared": "",
            "score": 0.0,
            "defines": "add",
        },
    ],
    "samples": [{**PLACE, "what": "fewWords", "before": "<script>alert('x')</script>", "after": ""}],
}


def test_every_figure_is_on_the_page() -> None:
    shown = re.sub(r"<[^>]*>", " ", page(REPORT))
    for text in (
        "1,234",
        "1,030",
        "204",
        "90,000 tokens",
        "python",
        "1,001",
        "duplicate 195, fewWords 4",
        "email",
        "200 rows left for 50",
        "77",
    ):
        assert text in shown
    for text in ("left out: ten words", "score 0.75", "defines add", "HumanEval/5", "a.py:3"):
        assert text in shown


def test_rows_are_text_and_nothing_is_fetched() -> None:
    made = page(REPORT)
    assert "&lt;script&gt;" in made
    assert not re.search(r"<script|<link|<img|src=|href=|@import|url\(", made)


def test_many_hits_are_cut_and_said_to_be() -> None:
    assert "100 more in report.json" in page({**REPORT, "hits": REPORT["hits"] * 100})


def test_a_report_of_nothing_is_a_page() -> None:
    made = page(
        {"tasks": [], "duplicates": {"rows": 0, "groups": 0, "largest": []}, "hits": [], "samples": []}
    )
    assert made.startswith("<!doctype html>")
    assert "Duplicates" not in made
