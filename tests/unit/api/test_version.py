"""Anneal's version stands in anneal_api.version; whatever else says one says the same."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools
import yaml
from click.testing import CliRunner
from images import build

from anneal_api import __version__, generate
from anneal_api.version import VERSION
from anneal_cli.__main__ import anneal
from anneal_serving.gateway import openapi

ROOT = Path(__file__).parents[3]
PACKAGES = ("api", "runtime", "evaluation", "operator", "trainers", "serving", "cli")
READ = """
import sys
sys.path += sys.argv[2:]
from setuptools.config.pyprojecttoml import read_configuration
print(read_configuration(sys.argv[1], expand=True)["project"]["version"])
"""


def test_the_chart_is_generated_with_it() -> None:
    chart = yaml.safe_load((ROOT / generate.CHART).read_text())
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_built_with_it(package: str) -> None:
    """By an interpreter that has nothing of Anneal installed, as pip's isolated builds have not."""
    place = str(Path(setuptools.__file__).parents[1])
    command = [
        sys.executable,
        "-I",
        "-S",
        "-W",
        "ignore",
        "-c",
        READ,
        ROOT / package / "pyproject.toml",
        place,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == (VERSION, "")


def test_commands_and_endpoints_say_it() -> None:
    assert __version__ == VERSION
    assert CliRunner().invoke(anneal, ["--version"]).output.split()[-1] == VERSION
    assert openapi.document()["info"]["version"] == VERSION


@pytest.mark.parametrize("recipe", (ROOT / "images").glob("*.Containerfile"), ids=lambda path: path.stem)
def test_an_image_is_labelled_with_it_and_with_the_commit(recipe: Path) -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]+)"', recipe.read_text()))
    code = "FROM ${DEPS}" in recipe.read_text()
    assert not code or (labels["version"], labels["revision"]) == ("${VERSION}", "${REVISION}")
    assert build.version() == VERSION


def test_the_changelog_is_about_it() -> None:
    newest = re.search(
        r"^## \[(.+?)\] - (unreleased|\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.M
    )
    assert newest
    assert newest[1] == VERSION
