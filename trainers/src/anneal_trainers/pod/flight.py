"""torch's flight recorder: the last collectives of every rank, asked for when one hangs.

A recorder writes what it holds to `<ENV_FLIGHT_RECORD><rank>` when somebody writes a byte into the pipe
`<ENV_FLIGHT_PIPE><rank>.pipe`. NCCL's process group reads its pipe itself, about once a second
(ProcessGroupNCCL.cpp: DumpPipe). gloo's records, too, but asks nobody: `answer` does that for it. Each file is a
pickle that `torchfrtrace --prefix rank- FOLDER` explains. No torch at the top: the launcher has none.
"""

import contextlib
import os
import threading
import time
from collections.abc import Collection
from pathlib import Path

from anneal_api.runs import ENV_FLIGHT_PIPE, ENV_FLIGHT_RECORD

POLL_SECONDS = 0.05
PICKLE_END = b"."
"""The opcode that ends every pickle: without it the file is still being written."""


def collect(ranks: Collection[int], seconds: float) -> dict[int, bytes]:
    """Return the records of `ranks`, counted over the whole group, that come within `seconds`.

    Waits for nobody where no recorder listens: a rank alone, or one that has not met its peers yet.
    """
    waiting, end = {rank for rank in ranks if _ask(rank)}, time.monotonic() + seconds
    found: dict[int, bytes] = {}
    while waiting and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
        found |= {rank: record for rank in waiting if (record := _read(rank))}
        waiting -= found.keys()
    return found


def answer(rank: int) -> None:
    """Let this process, whose ranks meet by gloo, answer as one that has NCCL does; without a pipe nobody asks."""
    if (pipe := _place(ENV_FLIGHT_PIPE, rank, ".pipe")) is None:
        return
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    threading.Thread(target=_answer, args=(rank, pipe), daemon=True).start()


def _answer(rank: int, pipe: Path) -> None:
    from torch._C._distributed_c10d import _dump_fr_trace  # type: ignore[attr-defined]

    while True:
        with pipe.open("rb") as stream:
            stream.read()
        if (record := _place(ENV_FLIGHT_RECORD, rank)) is not None:
            with contextlib.suppress(OSError):
                record.write_bytes(_dump_fr_trace())


def _ask(rank: int) -> bool:
    pipe, record = _place(ENV_FLIGHT_PIPE, rank, ".pipe"), _place(ENV_FLIGHT_RECORD, rank)
    if pipe is None or record is None:
        return False
    try:
        record.unlink(missing_ok=True)
        descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)  # an error where nobody reads
    except OSError:
        return False
    with os.fdopen(descriptor, "wb", buffering=0) as stream:
        stream.write(b"1")
    return True


def _read(rank: int) -> bytes:
    """Return the record of a rank once it is whole."""
    record = _place(ENV_FLIGHT_RECORD, rank)
    with contextlib.suppress(OSError):
        if record is not None and (content := record.read_bytes()).endswith(PICKLE_END):
            return content
    return b""


def _place(variable: str, rank: int, suffix: str = "") -> Path | None:
    prefix = os.environ.get(variable)
    return Path(f"{prefix}{rank}{suffix}") if prefix else None
