"""The report of a run in a real browser: headless Chromium, which `scripts/install browser` brings."""

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from objects import STATUS, job, steps

from anneal_cli import report

pytestmark = [pytest.mark.slow, pytest.mark.full]
WIDTHS = {"desktop": 1280, "phone": 390}
HEIGHT = 1400
MEASURE = (
    "<script>document.title = JSON.stringify([innerWidth, document.documentElement.scrollWidth])</script>"
)
SPOILED = '<script>console.error("spoiled")</script><img src="http://127.0.0.1:9/x.png"><p style="width:2000px">wide</p>'


@dataclass(frozen=True)
class Seen:
    """What a browser made of a page."""

    console: list[str]
    addresses: set[str]
    width: int
    needed: int
    picture: np.ndarray
    """Height, width, red, green and blue from 0 to 255."""


def opened(page: str, width: int, folder: Path) -> Seen:
    """Open a page at a width of so many CSS pixels; its copy also measures itself."""
    (folder / "page.html").write_text(page.replace("</body>", f"{MEASURE}</body>"))
    command = ["chromium-headless-shell", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{HEIGHT}", "--timeout=10000"]
    command += [f"--log-net-log={folder / 'net.json'}", (folder / "page.html").as_uri()]
    picture = folder / "page.png"
    drawn, dumped = (
        subprocess.run([*command, what], capture_output=True, text=True, check=True, timeout=60)
        for what in (f"--screenshot={picture}", "--dump-dom")
    )
    title = re.search(r"<title>(\[.*?])</title>", dumped.stdout)
    assert title is not None, dumped.stderr
    asked = json.loads((folder / "net.json").read_text())["events"]
    return Seen(
        [line for line in (drawn.stderr + dumped.stderr).splitlines() if "CONSOLE" in line],
        {str(event["params"]["url"]) for event in asked if "url" in event.get("params", {})},
        *json.loads(title[1]),
        np.round(255 * matplotlib.image.imread(picture)[..., :3]).astype(int),
    )


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
    seen = opened(report.page(told, [], steps()), WIDTHS[device], tmp_path)
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
