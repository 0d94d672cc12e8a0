"""A bill of materials names what an image is built of, all of it, in the versions that are locked."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from images import catalogue, sbom

ROOT = Path(__file__).parents[3]
IMAGES = {image.name: image for image in catalogue.IMAGES}


def locked(image: catalogue.Image) -> set[tuple[str, str]]:
    """Return names and versions in an image's lock files."""
    text = "".join(path.read_text() for path in sbom.requirements(image))
    return set(re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==([\w.+!]+)", text, re.MULTILINE))


def test_an_image_on_another_has_what_that_one_has() -> None:
    names = [[path.name for path in sbom.requirements(IMAGES[name])] for name in ("samples", "serving")]
    assert names == [["trainers.txt", "models.txt"], ["serving.txt", "triton.txt"]]


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGES)
def test_every_locked_package_is_in_the_bill(name: str) -> None:
    done = subprocess.run(["scripts/sbom", name], cwd=ROOT, check=True, capture_output=True, text=True)
    bill = json.loads(Path(done.stdout.splitlines()[-1]).read_text())
    assert {(part["name"], part["version"]) for part in bill["components"]} == locked(IMAGES[name])
    assert all(part["purl"].startswith("pkg:pypi/") for part in bill["components"])
