"""What a command waits for, shown while it waits: on a terminal only, and beside what it prints, never in it."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def shown(what: str) -> Iterator[Callable[[str], None]]:
    """Show a bar that moves, with the time, until the block ends; yield what changes its words.

    How long a pod takes to start is not known, so the bar has no end.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    columns = (BarColumn(bar_width=20), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda words: progress.update(task, description=words)


def until_first(what: str, pieces: Iterable[str]) -> Iterator[str]:
    """Yield the pieces; show what is waited for until the first has come."""
    rest = iter(pieces)
    with shown(what):
        first = [piece for piece in [next(rest, None)] if piece is not None]
    yield from chain(first, rest)
