"""Wardens from the trusted side: one is asked for, given its request, and heard; none outlives who asked.

A warden is a fork of an interpreter that has done nothing but import (forkserver.py).
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SOURCE = Path(__file__).resolve().parents[2]
_START = "import sys; sys.path.insert(0, {!r}); from anneal_evaluation.sandbox.forkserver import main; main()"
_TRIES = 2
_GRACE_SECONDS = 20.0
"""What a warden gets to start, and to clean up beyond the program's own time."""


class InfrastructureError(Exception):
    """The sandbox itself failed; says nothing of the program."""


class Wardens:
    """Starts its fork server when the first warden is asked for, and ends it with itself; threads may share one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: socket.socket | None = None
        self._end_server: Callable[[], object] = lambda: None

    def report(self, request: bytes, seconds: float) -> dict[str, Any]:
        """Return a new warden's report on `request`, for which it may take so long; a failure is tried once more.

        Raises:
            InfrastructureError: the second try failed too.
        """
        for left in reversed(range(_TRIES)):
            try:
                return self._reported(request, seconds)
            except InfrastructureError:
                if not left:
                    raise
        raise AssertionError("unreachable")

    def _reported(self, request: bytes, seconds: float) -> dict[str, Any]:
        server = self._running()
        try:
            with _line(server) as line:
                answer = _exchanged(line, request, seconds)
        except ConnectionError:  # somebody has ended it
            self._drop(server)
            raise InfrastructureError("the sandbox did not start") from None
        except OSError as error:
            raise InfrastructureError(f"the sandbox failed: {error or 'it took too long'}") from error
        report: dict[str, Any] = json.loads(answer or b'{"broken": "it ended without a word"}')
        if "broken" in report:
            raise InfrastructureError(f"the sandbox gave no report: {report['broken']}")
        if any(cell["status"] is None for cell in report["cells"]):
            raise InfrastructureError("the sandbox lost sight of a process")
        return report

    def _running(self) -> socket.socket:
        with self._lock:
            self._server = self._server or self._started()
            return self._server

    def _drop(self, server: socket.socket) -> None:
        with self._lock:
            if self._server is server:
                self._end_server()
                self._server = None

    def _started(self) -> socket.socket:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-I", "-S", "-c", _START.format(str(_SOURCE))]
        with its:
            process = subprocess.Popen(
                command,
                stdin=its.fileno(),
                stdout=subprocess.DEVNULL,
                env={"PATH": "/usr/bin:/bin"},
                cwd="/",
                start_new_session=True,
            )
        self._end_server = weakref.finalize(self, _end, ours, process)
        return ours


def _line(server: socket.socket) -> socket.socket:
    """Return a line to a warden that is about to be."""
    ours, its = socket.socketpair()
    with its:
        try:
            socket.send_fds(server, [b"."], [its.fileno()])
        except OSError as error:
            ours.close()
            raise ConnectionError from error
    return ours


def _end(line: socket.socket, process: subprocess.Popen[bytes]) -> None:
    line.close()
    process.kill()
    process.wait()


def _exchanged(line: socket.socket, request: bytes, seconds: float) -> bytes:
    """Return what the warden at the other end says; it has ended afterwards.

    Raises:
        OSError: it is gone, or takes too long.
    """
    line.settimeout(_GRACE_SECONDS)
    _, handles, _, _ = socket.recv_fds(line, 1, 1, socket.MSG_CMSG_CLOEXEC)
    if not handles:
        raise ConnectionError("it did not start")
    (handle,) = handles
    try:
        line.settimeout(seconds + _GRACE_SECONDS)
        line.sendall(request)
        with line.makefile("rb") as answers:
            return answers.readline()
    finally:
        line.close()  # a warden that is at work is told by this
        if not select.select([handle], [], [], _GRACE_SECONDS)[0]:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.close(handle)
