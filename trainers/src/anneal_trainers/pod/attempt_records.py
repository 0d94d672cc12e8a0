"""What a pod leaves in the store of an attempt that did not succeed; where, says `anneal_api.runs.attempt_folder`.

It is written when all ranks have ended and the outcome is told, and within a bound: a store that is slow or away
delays no group's end and fails no attempt.
"""

import contextlib
import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from anneal_runtime.storage import is_local, join, resolve
from anneal_trainers.pod.ranks import Rank

WRITERS = 8
"""Threads: a store of objects takes tens of milliseconds a file, whatever its size."""


@dataclass
class Dumps:
    """What living ranks were asked for before they were ended, by their number in the whole group."""

    stacks: dict[int, bytes] = field(default_factory=dict)
    flights: dict[int, bytes] = field(default_factory=dict)


def files(pod: str, ranks: Iterable[Rank], dumps: Dumps, memory: str, offset: float) -> dict[str, bytes]:
    """Return the content of each file by its path, what says most first.

    Args:
        pod: its name.
        ranks: its ranks, all of which have ended.
        dumps: what they left before.
        memory: the pod's memory, at start and end.
        offset: what is added to the ranks' clock for seconds since 1970.
    """
    names = {rank.overall: f"{pod}-rank-{rank.overall}" for rank in ranks}
    return {
        **{f"logs/{names[rank.overall]}.log": rank.output.since() for rank in ranks},
        **{f"stacks/{names[n]}.stacks": content for n, content in dumps.stacks.items()},
        **{f"heartbeats/{names[rank.overall]}.jsonl": heartbeats(rank, offset) for rank in ranks},
        f"memory/{pod}.txt": memory.encode(),
        **{f"flight/{names[n]}": content for n, content in dumps.flights.items()},
    }


def heartbeats(rank: Rank, offset: float) -> bytes:
    """Return the last heartbeats of a rank, one line of JSON each: when, and where the rank was."""
    lines = [{"time": _stamp(when + offset), **place} for when, place in [*rank.beats]]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def warm(folder: str) -> None:
    """Load what the store needs, beside the ranks' own start: a library of seconds is no matter for the end."""

    def load() -> None:
        with contextlib.suppress(Exception):  # whatever it is, the ranks meet it too, and tell
            resolve(folder)

    threading.Thread(target=load, daemon=True).start()


def store(folder: str, content: Mapping[str, bytes], seconds: float) -> None:
    """Write `content` below `folder` for at most `seconds`; what could not be written is told in the log."""
    left, written, errors = deque(content.items()), list[str](), list[str]()
    try:
        write = _writer(folder)
    except Exception as error:  # of whichever library the store needs
        print(f"no records are in {folder}: {error}", file=sys.stderr, flush=True)
        return
    arguments = (write, left, written, errors)
    writers = [threading.Thread(target=_write_all, args=arguments, daemon=True) for _ in range(WRITERS)]
    end = time.monotonic() + seconds
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(max(0.0, end - time.monotonic()))
    if (count := len(written)) < len(content):
        why = errors[0] if errors else f"the store did not take the rest within {seconds:.0f} s"
        print(f"{count} of {len(content)} records are in {folder}: {why}", file=sys.stderr, flush=True)


def _writer(folder: str) -> Callable[[str, bytes], None]:
    filesystem, root = resolve(folder)  # once: fsspec would make one of its own for every thread

    def write(name: str, content: bytes) -> None:
        path = join(root, name)
        if is_local(folder):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        filesystem.pipe_file(path, content)

    return write


def _write_all(
    write: Callable[[str, bytes], None],
    left: deque[tuple[str, bytes]],
    written: list[str],
    errors: list[str],
) -> None:
    while left:
        try:
            name, content = left.popleft()
            write(name, content)
            written.append(name)
        except IndexError:  # another writer took the last one
            return
        except Exception as error:  # of whichever library the store needs
            errors.append(str(error))


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
