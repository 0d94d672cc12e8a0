"""What the pages point at exists: files, headings, commands, reasons, folders."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import yaml

from anneal_cli.__main__ import anneal

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
)
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


def commands() -> list[tuple[str, str]]:
    """Return every `anneal ...` that a page tells the reader to type, with its page."""
    found = []
    for page in PAGES:
        text = page.read_text()
        typed = re.findall(r"`anneal ([^`]+)`", text) + re.findall(r"^ {4,}anneal (.+)$", text, re.MULTILINE)
        found += [(named(page), line) for line in typed]
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_command_of_ours_exists_with_its_options(page: str, line: str) -> None:
    words = re.sub(r"[\[\]]", "", line).split()
    options = {o for p in anneal.params if isinstance(p, click.Option) for o in p.opts}
    while words and words[0] in options:
        words = words[2:]
    command = anneal.commands.get(words[0].rstrip(","))
    assert command is not None, f"{words[0]} is no command"
    known = {o for p in command.params if isinstance(p, click.Option) for o in p.opts}
    assert {word for word in words[1:] if re.match(r"--?[a-z]", word)} <= known


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


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([\w%-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"\bmake ([a-z][\w-]*)`", page.read_text()):
            known = target in targets or any(
                target.startswith(t.removesuffix("%")) for t in targets if t.endswith("%")
            )
            assert known, f"{named(page)}: make {target}"
