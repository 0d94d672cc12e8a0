"""Bills of materials: what an image's dependency layer is made of, as CycloneDX, from the locked requirements it is built of."""

import pathlib
import subprocess

from images import catalogue

TOOL = catalogue.ROOT / ".venv-sbom" / "bin" / "cyclonedx-py"
FOLDER = catalogue.ROOT / "build" / "sbom"


def requirements(image: catalogue.Image) -> list[pathlib.Path]:
    """Return the lock files of an image, those of the image it stands on first."""
    below = requirements(image.parent) if image.parent else []
    return [*below, *(catalogue.ROOT / "requirements" / f"{name}.txt" for name in image.requirements)]


def write(image: catalogue.Image, base: str | None) -> pathlib.Path:
    """Write an image's bill, named like the image, and return where it is."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{image.name}-{catalogue.tag(image, base)}.cdx.json"
    locked = "".join(file.read_text() for file in requirements(image))
    command = [TOOL, "requirements", "-", "--output-reproducible", "-o", path]
    subprocess.run([str(word) for word in command], input=locked, text=True, check=True)
    return path
