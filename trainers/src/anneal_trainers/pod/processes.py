"""A rank as a process: started with a channel to its launcher, its output read, signalled while it lives."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from anneal_trainers.pod.channel import ENV_CHANNEL
from anneal_trainers.pod.output import forward
from anneal_trainers.pod.ranks import Rank

STDOUT, STDERR = 1, 2


def start(
    number: int, command: list[str], extra: Mapping[str, str], hear: Callable[[Rank, dict[str, Any]], None]
) -> Rank:
    """Start the pod's `number`th rank; `hear` is told of every message of it, in a thread."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        command,
        env={**os.environ, **extra, ENV_CHANNEL: str(writing)},
        pass_fds=[writing],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    os.close(writing)
    rank = Rank(number, int(extra.get("RANK", number)), process)
    rank.readers = [
        _reader(_listen, rank, reading, hear),
        _reader(forward, process.stdout, rank.output, STDOUT),
        _reader(forward, process.stderr, rank.output, STDERR),
    ]
    return rank


def send(rank: Rank, number: int) -> None:
    """Send a signal to a rank that lives."""
    if rank.process.poll() is None:
        rank.process.send_signal(number)


def finish_reading(ranks: Iterable[Rank], seconds: float) -> None:
    """Return when all that ranks which have ended said is heard; a child of theirs may hold a pipe for longer."""
    end = time.monotonic() + seconds
    for reader in [reader for rank in ranks for reader in rank.readers]:
        reader.join(max(0.0, end - time.monotonic()))


def _reader(work: Callable[..., None], *arguments: Any) -> threading.Thread:
    reader = threading.Thread(target=work, args=arguments, daemon=True)
    reader.start()
    return reader


def _listen(rank: Rank, descriptor: int, hear: Callable[[Rank, dict[str, Any]], None]) -> None:
    with os.fdopen(descriptor) as stream:
        for line in stream:
            rank.hear(message := json.loads(line), time.monotonic())
            hear(rank, message)
