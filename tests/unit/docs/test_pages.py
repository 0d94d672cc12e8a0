"""What the pages point at exists: files, headings, reasons, folders."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from documented import PAGES, ROOT

SOURCES = ("api", "runtime", "evaluation", "operator", "trainers", "serving", "cli")
MODULES = {p: ROOT / p / "src" / f"anneal_{p}" for p in SOURCES}


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Return the headings of a page as links spell them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{target} leads nowhere"
        assert not anchor or anchor in anchors(file), f"{target}: there is no such heading"


def test_the_site_has_every_page_once() -> None:
    def pages(node: object) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        for each in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            yield from pages(each)

    site = list(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    there = [str(p.relative_to(ROOT / "docs")) for p in PAGES if p.is_relative_to(ROOT / "docs")]
    assert sorted(site) == sorted(there)


@cache
def code() -> str:
    return "\n".join(file.read_text() for folder in MODULES.values() for file in folder.rglob("*.py"))


def reasons() -> list[str]:
    """Return the words in the first column of the tables of the troubleshooting page that are reasons or causes."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("|")]
    return [word for cell in rows for word in re.findall(r"`([A-Z][A-Za-z]+)`", cell)]


@pytest.mark.parametrize("reason", reasons())
def test_every_reason_is_one_that_is_told(reason: str) -> None:
    assert f'"{reason}"' in code()


def test_contributing_names_files_that_exist() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    for path in re.findall(
        r"`((?:api|cli|evaluation|operator|trainers|serving|tests|charts|manifests)/[^`\s]+)`", page
    ):
        head, _, rest = path.partition("/.../")
        place = MODULES[head] / rest if rest else ROOT / path
        assert place.exists(), f"{path} is not there"
