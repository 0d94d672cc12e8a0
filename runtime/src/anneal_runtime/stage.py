"""The frame around every stage: run config in, outcome out, exit code from the outcome."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from anneal_api.base import Model, wire
from anneal_api.outcome import EXIT_CODES, TERMINATION_LIMIT, Outcome
from anneal_api.runs import ENV_RUN, ENV_TERMINATION_LOG, RUN_PATH
from anneal_runtime.errors import Refused, TryAgain

Run = TypeVar("Run", bound=Model)
_TOLD_ERRORS = 8


def run_stage(work: Callable[[Run], Model], run_type: type[Run]) -> int:
    """Read the run config, do the work, leave the outcome in the termination log; return the exit code."""
    outcome = _fitting(_attempt(lambda: work(read_run(run_type))))
    report(outcome)
    return EXIT_CODES[outcome.verdict]


def _fitting(outcome: Outcome) -> Outcome:
    try:
        encode(outcome)
    except ValueError as error:
        return Outcome(verdict="Failed", reason="ResultTooLong", message=str(error))
    return outcome


def read_run(run_type: type[Run]) -> Run:
    """Return the run config of this pod.

    Raises:
        Refused: keys it does not know, or values that do not fit; the first of them are named.
    """
    path = Path(os.environ.get(ENV_RUN, RUN_PATH))
    try:
        return run_type.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise Refused("InvalidRun", f"{path.name}: {_told(error)}; correct or remove these fields") from error


def _told(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, found['loc'])) or 'the file'}: {found['msg']}, found {str(found['input'])[:80]}"
        for found in error.errors()[:_TOLD_ERRORS]
    )


def report(outcome: Outcome) -> None:
    """Write `outcome` where the kubelet reads it, and to the log."""
    text = encode(outcome)
    termination_log().write_text(text, encoding="utf-8")
    print(text, file=sys.stderr, flush=True)


def termination_log() -> Path:
    """Return the file whose content the kubelet puts into the pod's status when the container has ended."""
    return Path(os.environ.get(ENV_TERMINATION_LOG, "/dev/termination-log"))


def encode(outcome: Outcome) -> str:
    """Return the outcome as JSON of at most 4 KiB; a long message is cut, a long result is an error."""
    text = outcome.model_dump_json(by_alias=True, exclude_none=True)
    if (excess := len(text.encode()) - TERMINATION_LIMIT) <= 0:
        return text
    # A character is up to six bytes of JSON, so a few more go than must.
    short = outcome.message[: max(0, len(outcome.message) - excess - 8)]
    cut = outcome.model_copy(update={"message": short.encode("ascii", "replace").decode()})
    text = cut.model_dump_json(by_alias=True, exclude_none=True)
    if len(text.encode()) > TERMINATION_LIMIT:
        raise ValueError(f"the result of this stage is {len(text)} bytes; {TERMINATION_LIMIT} fit")
    return text


def _attempt(work: Callable[[], Model]) -> Outcome:
    try:
        return Outcome(verdict="Succeeded", reason="Done", result=wire(work()))
    except Refused as error:
        return Outcome(verdict="Refused", reason=error.reason, message=error.message[:2048])
    except TryAgain as error:
        return Outcome(verdict="Retry", reason=error.reason, message=error.message[:2048])
    except Exception as error:  # the boundary: whatever it is, the operator must be told
        traceback.print_exc()
        return Outcome(verdict="Failed", reason=type(error).__name__, message=str(error)[:2048])
