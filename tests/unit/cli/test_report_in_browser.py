"""The report of a run in a real browser."""

from pathlib import Path

import numpy as np
import pytest
from browser import WIDTHS, opened
from objects import SAMPLES, STATUS, job, steps

from anneal_cli import report

pytestmark = [pytest.mark.slow, pytest.mark.full]
SPOILED = '<script>console.error("spoiled")</script><img src="http://127.0.0.1:9/x.png"><p style="width:2000px">wide</p>'


def coloured(picture: np.ndarray) -> dict[str, int]:
    """Count the pixels of each hue that lines of curves have: the whole loss, and that of two tasks."""
    red, green, blue = np.moveaxis(picture, -1, 0)
    hues = {
        "blue": blue - red > 50,
        "orange": red - blue > 50,
        "green": (green - red > 30) & (green - blue > 30),
    }
    return {name: int(found.sum()) for name, found in hues.items()}


@pytest.mark.parametrize("device", list(WIDTHS))
def test_the_report_opens_without_a_word_or_a_request_and_draws_its_curves(
    device: str, tmp_path: Path
) -> None:
    told = job(status={**STATUS, "acceleratorSeconds": 4711})
    seen = opened(report.page(told, [], steps(), SAMPLES), WIDTHS[device], tmp_path)
    assert (seen.console, seen.addresses) == ([], set())
    assert seen.needed <= seen.width == WIDTHS[device]
    assert min(coloured(seen.picture).values()) > 100
    without = opened(report.page(told, [], []), WIDTHS[device], tmp_path)
    assert sum(coloured(without.picture).values()) == 0


def test_a_spoiled_page_would_be_told(tmp_path: Path) -> None:
    page = report.page(job(), [], []).replace("</body>", f"{SPOILED}</body>")
    seen = opened(page, WIDTHS["phone"], tmp_path)
    assert any("spoiled" in line for line in seen.console)
    assert seen.addresses == {"http://127.0.0.1:9/x.png"}
    assert seen.needed > seen.width
