"""A process that has imported what a warden needs, and forks one for each sample; it runs and reads nothing else.

Starting an interpreter and its imports costs several times what a sample does. What a warden has from here is what a fresh
one would have: nothing of any sample ever comes to this process, whose only input is the end of a line to pass on.
"""

import gc
import json
import os
import signal
import socket

from anneal_evaluation.sandbox import warden

_CALLER = 0
"""The descriptor that the ends of lines come from."""


def main() -> None:
    """Fork a warden for every line that arrives, until whoever started this is gone."""
    caller = socket.socket(fileno=_CALLER)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for wardens: the kernel forgets them
    gc.freeze()  # so that no child copies these pages to count its garbage
    while True:
        _, lines, _, _ = socket.recv_fds(caller, 1, 1)
        if not lines:
            return
        if os.fork() == 0:
            _become_warden(*lines)
        os.close(lines[0])


def _become_warden(line: int) -> None:
    """Be one sample's warden in a session of its own, and end."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        for descriptor in (warden.INPUT, warden.OUTPUT):
            os.dup2(line, descriptor)
        os.close(line)
        with socket.socket(fileno=os.dup(warden.OUTPUT)) as caller:
            socket.send_fds(caller, [b"."], [os.pidfd_open(os.getpid())])
        warden.main()
    except BaseException as error:
        os.write(
            warden.OUTPUT, json.dumps({"broken": f"{type(error).__name__}: {error}"[:400]}).encode() + b"\n"
        )
    finally:
        os._exit(0)
