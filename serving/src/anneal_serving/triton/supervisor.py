"""Runs a replica's server as a child: passes SIGTERM on and tells its exit code.

It does not become the server: process 1 of a container cannot be killed from inside of it, as `lifeline` has to.
"""

import os
import signal
import subprocess
from pathlib import Path
from types import FrameType


def run(words: list[str], environment: dict[str, str], leader: Path) -> int:
    """Run `words` to its end and return the exit code, 0 where the end was asked for by SIGTERM.

    Args:
        leader: file with the process id that SIGTERM goes to; without the file it goes to `words` itself.
    """
    leader.unlink(missing_ok=True)
    children: list[subprocess.Popen[bytes]] = []
    told: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        told.append(number)
        _stop(leader, children)

    signal.signal(signal.SIGTERM, stop)
    children.append(subprocess.Popen(words, env=environment))
    code = children[0].wait()
    return 0 if told else code if code >= 0 else 128 - code


def _stop(leader: Path, children: list[subprocess.Popen[bytes]]) -> None:
    try:
        os.kill(int(leader.read_text()), signal.SIGTERM)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        # One server, or none that serves yet.
        for child in children:
            child.terminate()
