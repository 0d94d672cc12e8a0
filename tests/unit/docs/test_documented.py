"""Every command in the pages is proved in one of the ways of `documented`; here those that need no API server."""

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import click
import pytest
from documented import ALLOWED, ELSEWHERE, PAGES, ROOT, Command, commands, proved, way

from anneal_cli.__main__ import anneal

BESIDE = Path(sys.executable).parent


def label(value: object) -> str | None:
    return value.line if isinstance(value, Command) else None


def each(*found: Command) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("command", found, ids=label)


def bash(line: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Have bash run a line where this interpreter is `python3`."""
    environment = {**os.environ, "PATH": f"{BESIDE}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", *options, "-c", line],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_command_is_left_without_a_proof() -> None:
    assert [command for command in commands() if way(command.line) is None] == []


def test_what_is_not_run_or_runs_elsewhere_is_still_in_a_page() -> None:
    assert {*ALLOWED, *ELSEWHERE} <= {command.line for command in commands()}


@pytest.mark.parametrize(("line", "file"), ELSEWHERE.items())
def test_what_runs_elsewhere_is_there(line: str, file: str) -> None:
    words = [word for word in shlex.split(line) if re.fullmatch(r"test|logs|anneal_operator", word)]
    assert words
    assert all(f'"{word}"' in (ROOT / file).read_text() for word in words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_block_says_what_it_is(page: Path) -> None:
    """An indented block, or one of no kind, could hide a command."""
    text = page.read_text()
    fences = re.findall(r"^ *```(.*)$", text, re.MULTILINE)
    assert set(fences[::2]) <= {"sh", "text", "yaml", "json"}
    assert set(fences[1::2]) <= {""}
    outside = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert not re.search(r"\n\n {4,}[^\s*-]", outside)


@each(*proved("parsed"))
def test_a_command_of_ours_exists_with_its_options(command: Command) -> None:
    words = re.sub(r"[\[\]]", "", command.line).removeprefix("kubectl ").split()[1:]
    options = {o for p in anneal.params if isinstance(p, click.Option) for o in p.opts}
    while words and words[0] in options:
        words = words[2:]
    if words:
        ours = anneal.commands.get(words[0])
        assert ours is not None, f"{words[0]} is no command"
        known = {o for p in ours.params if isinstance(p, click.Option) for o in p.opts}
        assert {word for word in words[1:] if re.match(r"--?[a-z]", word)} <= known


@cache
def help_of(*words: str) -> str:
    done = subprocess.run([sys.executable, *words, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@each(*proved("help"))
def test_a_programs_help_knows_every_option(command: Command) -> None:
    words = [word for word in shlex.split(command.line)[1:] if word.strip(".")]
    called = 3 if len(words) > 2 and re.fullmatch(r"[a-z][a-z-]*", words[2]) else 2
    told = help_of(*words[:called])
    assert {word for word in words[called:] if word.startswith("-")} <= set(re.findall(r"--?[\w-]+", told))


@each(*proved("dry"))
def test_make_knows_what_to_do(command: Command) -> None:
    done = bash(re.sub(r"\bmake ", "make --dry-run ", command.line))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@each(*proved("syntax"))
def test_a_script_is_there_and_bash_reads_it(command: Command) -> None:
    (script,) = (ROOT / word for word in shlex.split(command.line) if word.startswith("scripts/"))
    assert os.access(script, os.X_OK)
    assert bash("true", "-n", str(script)).stderr == ""


@pytest.mark.slow
@each(*proved("run"))
def test_bash_runs_it(command: Command) -> None:
    installed = "anneal() { python3 -m anneal_cli; }"
    done = bash(f"{installed}; {command.line}", "-eu")
    assert (done.returncode, done.stderr) == (0, "")
