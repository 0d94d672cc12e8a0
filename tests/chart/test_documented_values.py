"""What a page sets in the chart's values is accepted, and every part of it changes what is installed."""

import re

import pytest
import yaml
from documented import PAGES
from rendered import CHART, helm

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
PLACEHOLDER, DIGEST = "sha256:...", f"sha256:{'0' * 64}"


def settings() -> set[str]:
    """Return what pages give to `--set`, in the code within their sentences."""
    code = {span for page in PAGES for span in re.findall(r"`([^`\n]+)`", page.read_text())}
    return {span for span in code if re.fullmatch(rf"({'|'.join(VALUES)})[\w.\[\]]*=.+", span)}


def installed(parts: list[str]) -> str:
    """Return what helm would install, or why it would not."""
    done = helm(*(word for part in parts for word in ("--set", part)))
    return done.stdout or done.stderr


@pytest.mark.parametrize("setting", sorted(settings()))
def test_what_a_page_sets_is_accepted_and_does_something(setting: str) -> None:
    parts = re.split(r",(?![^{]*})", setting.replace(PLACEHOLDER, DIGEST))
    whole = installed(parts)
    assert not whole.startswith("Error")
    for number in range(len(parts)):
        assert installed(parts[:number] + parts[number + 1 :]) != whole, f"{parts[number]} does nothing"
