"""The page of an evaluation, of answers that are out to harm it, in a real browser."""

import json
from pathlib import Path

import pytest
from browser import WIDTHS, opened

from anneal_evaluation import report, scoring
from anneal_evaluation.judging import Here
from anneal_evaluation.results import Settings
from anneal_evaluation.suites import files

pytestmark = [pytest.mark.slow, pytest.mark.full]
PROBLEM = {
    "task_id": "a-problem-with-a-name-that-is-long-and-has-no-place-to-break_at-all",
    "prompt": "def f(x):\n",
    "entry_point": "f",
    "canonical_solution": "    return x + 1\n",
    "test": "def check(c):\n    assert c(1) == 2",
}
HOSTILE = (
    f"    return '</pre><script>console.error(1)</script><img src=http://127.0.0.1:9/x.png>{'wide ' * 80}'\n"
)


def test_it_opens_without_a_word_or_a_request_and_fits(tmp_path: Path) -> None:
    (tmp_path / "suite.jsonl").write_text(json.dumps(PROBLEM) + "\n")
    suite = files.read(f"file://{tmp_path}/suite.jsonl")
    result = scoring.evaluate(suite, "mine", lambda _: [HOSTILE], Settings(), Here())
    page = report.page([result]).replace("<details>", "<details open>")
    assert "&lt;script&gt;" in page
    for device, width in WIDTHS.items():
        seen = opened(page, width, tmp_path)
        assert (seen.console, seen.addresses) == ([], set())
        assert seen.needed <= seen.width == width, device
