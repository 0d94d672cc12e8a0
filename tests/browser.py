"""Pages in a real browser: headless Chromium, which `scripts/install browser` brings."""

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import matplotlib.image
import numpy as np

WIDTHS = {"desktop": 1280, "phone": 390}
HEIGHT = 1400
MEASURE = (
    "<script>document.title = JSON.stringify([innerWidth, document.documentElement.scrollWidth])</script>"
)


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
    (folder / "page.html").write_text(page.replace("</html>", f"{MEASURE}</html>"))
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
