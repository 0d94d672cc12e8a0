"""`kubectl_complete-anneal`: what kubectl asks for the completion of `kubectl anneal`.

kubectl passes the words so far, the last one unfinished, and reads one suggestion a line and then a directive (cobra's).
"""

import sys

from click.shell_completion import ShellComplete

from anneal_cli.__main__ import anneal

NO_FILES = ":4"
"""cobra's ShellCompDirectiveNoFileComp."""


def suggestions(words: list[str]) -> list[str]:
    """Return what the last of `words` may become."""
    *before, unfinished = words or [""]
    found = ShellComplete(anneal, {}, "anneal", "_ANNEAL_COMPLETE").get_completions(before, unfinished)
    return [f"{each.value}\t{each.help}" if each.help else str(each.value) for each in found]


def main() -> None:
    """Answer kubectl."""
    print("\n".join([*suggestions(sys.argv[1:]), NO_FILES]))
