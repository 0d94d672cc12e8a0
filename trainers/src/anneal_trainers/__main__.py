"""`python3 -m anneal_trainers STAGE`: what the pods of a FineTuneJob run, and two commands for people.

A stage's module is imported only when it is asked for: importing torch and transformers takes seconds,
and inspect must answer before that.
"""

import importlib
import sys
from collections.abc import Callable
from typing import cast

from anneal_api.outcome import EXIT_CONFIG

STAGES = {
    "inspect": "anneal_trainers.inspect_stage",
    "prepare": "anneal_trainers.prepare",
    "train": "anneal_trainers.launcher",
    "rank": "anneal_trainers.train",
    "evaluate": "anneal_trainers.evaluate",
    "export": "anneal_trainers.export",
    "delete": "anneal_trainers.cleanup",
}
COMMANDS = {
    "import": "anneal_trainers.import_model",
    "quickstart-data": "anneal_trainers.quickstart",
}


def main(arguments: list[str]) -> int:
    """Run the stage or command that `arguments` name and return its exit code."""
    name, *rest = arguments or [""]
    if name in COMMANDS:
        command = cast(Callable[[list[str]], int], importlib.import_module(COMMANDS[name]).main)
        return command(rest)
    if name not in STAGES or rest:
        usage = ",".join([*STAGES, *COMMANDS])
        print(f"usage: python3 -m anneal_trainers {{{usage}}}", file=sys.stderr)
        return EXIT_CONFIG
    stage = cast(Callable[[], int], importlib.import_module(STAGES[name]).main)
    return stage()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
