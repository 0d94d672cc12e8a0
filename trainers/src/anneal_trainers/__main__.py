"""`python3 -m anneal_trainers STAGE`: what the pods of a FineTuneJob run, and commands for people.

A stage's module is imported only when it is asked for: importing torch and transformers takes seconds,
and inspect must answer before that. Only the interpreter's own modules are imported here, as the kernel
keeps from a container's process 1 every signal it has no handler for: SIGTERM would be lost while it imports.
"""

import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import cast

STAGES = {
    "inspect": "anneal_trainers.inspect_stage",
    "shard": "anneal_trainers.shard",
    "prepare": "anneal_trainers.prepare",
    "train": "anneal_trainers.pod.launcher",
    "rank": "anneal_trainers.train",
    "evaluate": "anneal_trainers.evaluate",
    "export": "anneal_trainers.export",
    "suites": "anneal_trainers.score_suites",
    "delete": "anneal_trainers.cleanup",
}
COMMANDS = {
    "browse": "anneal_trainers.browse",
    "import": "anneal_trainers.import_model",
    "make-rows": "anneal_trainers.make_rows",
    "quickstart-data": "anneal_trainers.quickstart",
    "replay": "anneal_trainers.replay",
    "spikes": "anneal_trainers.spikes",
    "trial": "anneal_trainers.trial",
}
CLEANING_SECONDS = 5
"""What a stage that is told to stop gets to remove its scratch folders."""


def main(arguments: list[str]) -> int:
    """Run the stage or command that `arguments` name and return its exit code."""
    name, *rest = arguments or [""]
    if name in COMMANDS:
        return run_command(
            cast(Callable[[list[str]], int], importlib.import_module(COMMANDS[name]).main), rest
        )
    if name not in STAGES or rest:
        usage = ",".join([*STAGES, *COMMANDS])
        print(f"usage: python3 -m anneal_trainers {{{usage}}}", file=sys.stderr)
        return os.EX_USAGE
    stage = cast(Callable[[], int], importlib.import_module(STAGES[name]).main)
    return stage()


def run_command(command: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Run a command; what is wrong is told to the person who gave it, with the exit code of a stage."""
    from anneal_runtime.errors import Refused, StageError

    try:
        return command(arguments)
    except StageError as error:
        print(f"{error.reason}: {error.message}", file=sys.stderr)
        return os.EX_USAGE if isinstance(error, Refused) else os.EX_TEMPFAIL


def stop_at_once() -> None:
    """Let SIGTERM end this process with 75: a stage keeps nothing half done. Training has a handler of its own.

    A rank is left to the kernel, which ends it even while it waits for its peers: it is never process 1.
    """

    def stop(*_: object) -> None:
        signal.signal(signal.SIGALRM, lambda *_: os._exit(os.EX_TEMPFAIL))
        signal.alarm(CLEANING_SECONDS)
        sys.exit(os.EX_TEMPFAIL)

    signal.signal(signal.SIGTERM, stop)


if __name__ == "__main__":
    if sys.argv[1:] != ["rank"]:
        stop_at_once()
    code = main(sys.argv[1:])
    if sys.argv[1:] == ["rank"]:
        from anneal_trainers.pod.group import leave_process

        leave_process(code)
    sys.exit(code)
