"""What the chart's dashboard and alerts ask for."""

import re
from pathlib import Path

FILES = Path(__file__).parents[1] / "charts" / "anneal" / "files"


def asked(start: str) -> set[str]:
    """Return the samples that a panel or an alert names and that begin so."""
    texts = "".join((FILES / name).read_text() for name in ("dashboard.json", "alerts.yaml"))
    return set(re.findall(rf"\b{start}\w*", texts))
