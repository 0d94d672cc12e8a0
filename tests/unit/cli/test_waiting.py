"""A bar is on a terminal's error stream, for as long as something is waited for, and nowhere else."""

import io
from contextlib import redirect_stderr

import pytest
from objects import Terminal

from anneal_cli import waiting


@pytest.fixture(autouse=True)
def drawn_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


def test_the_words_change_and_the_bar_goes() -> None:
    with redirect_stderr(Terminal()) as terminal, waiting.shown("a pod") as tell:
        tell("a pod: [Pending]")
    assert "a pod: [Pending]" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K")


def test_pieces_come_as_they_are_and_the_bar_goes_with_the_first() -> None:
    pieces = waiting.until_first("an endpoint", iter(["a", "b"]))
    with redirect_stderr(Terminal()) as terminal:
        assert next(pieces) == "a"
    shown = terminal.getvalue()
    assert "an endpoint" in shown
    assert (list(pieces), terminal.getvalue()) == (["b"], shown)
    assert list(waiting.until_first("an endpoint", [])) == []


def test_nothing_is_said_where_nobody_looks() -> None:
    with redirect_stderr(io.StringIO()) as seen, waiting.shown("a pod") as tell:
        tell("a pod: Pending")
    assert seen.getvalue() == ""
