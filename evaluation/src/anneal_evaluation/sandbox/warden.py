"""The process between the trusted one and the cells: starts them, holds them to their time, ends all that is left.

One a sample, forked by `forkserver`; requests come as frames of JSON, the report leaves as a line of it. When the
other end of its line closes, the caller is gone, and so is everything here.
"""

import contextlib
import errno
import json
import math
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from anneal_evaluation.sandbox import confine, judge, values, worker

LOOK_SECONDS = 0.05
"""Between looks at the scratch folder's size."""
KEPT_OUTPUT = 16 << 10
FAILED = 70
"""Exit status of a cell that could not be made, or whose code broke it."""
INPUT, OUTPUT = 0, 1
_VERDICT_LIMIT = 65_536
_PAGE, _AGAIN = 4096, 0.002


@dataclass
class Cell:
    """One confined process: what it writes, and how it has ended."""

    name: str
    pid: int
    handle: int
    """Its pidfd: readable when it has ended, and never another's."""
    pipe: int
    """Where its standard output and error arrive."""
    level: str = ""
    output: bytearray = field(default_factory=bytearray)
    written: int = 0
    status: int | None = None
    cpu_seconds: float = 0.0
    memory_bytes: int = 0


@dataclass
class Warden:
    """Everything of one request."""

    limits: confine.Limits
    paths: confine.Paths
    deadline: float
    required: str
    cells: list[Cell] = field(default_factory=list)
    ended: str = ""
    """Why the cells were ended before they ended themselves."""
    _namespaces: bool = False

    def start(
        self,
        name: str,
        work: Callable[[], object],
        keep: tuple[int, ...],
        *,
        execute: bool = False,
        foreign: bool = True,
    ) -> Cell:
        """Fork a cell that confines itself and does `work`, with the descriptors in `keep` alone.

        The one of `foreign` code comes last: from then on children share its PID namespace, and end with it.
        """
        out, inside = os.pipe()
        told, tells = os.pipe()
        own = foreign and self._namespaces and confine.own_processes()
        pid = os.fork()
        if pid == 0:
            os.dup2(inside, 1)
            self._become(work, keep, tells, execute=execute, own=own)
        os.close(inside)
        os.close(tells)
        cell = Cell(name, pid, os.pidfd_open(pid), out)
        cell.level = os.read(told, 64).decode()
        os.close(told)
        self.cells.append(cell)
        return cell

    def _become(
        self, work: Callable[[], object], keep: tuple[int, ...], tells: int, *, execute: bool, own: bool
    ) -> None:
        code = FAILED
        try:
            os.setsid()
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            os.dup2(1, 2)
            _close_all_but({0, 1, 2, tells, *keep})
            os.chdir(self.paths.scratch)
            level = self._confine(execute=execute, own=own)
            os.write(tells, level.encode())
            os.close(tells)
            if strength(level) >= strength(self.required):
                work()
                code = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}"[:400].encode())
        finally:
            os._exit(code)

    def _confine(self, *, execute: bool, own: bool) -> str:
        network = self._namespaces and confine.own_network()
        confine.die_with_parent()
        confine.limit(self.limits, own_users=own)
        if not execute:
            confine.unreadable()
        locked = confine.lock(self.paths, processes=self.limits.processes, execute=execute)
        return "limits" if not locked else "namespaces" if own and network else "filtered"

    def prepare(self) -> None:
        """Get ready to fork: orphans come here, namespaces where they are allowed."""
        confine.adopt_orphans()
        self._namespaces = confine.enter_user_namespace()
        confine.unreadable()

    def watch(self, until: Callable[[], bool]) -> None:
        """Read what cells write and note their ends, until `until` holds or a bound is passed."""
        with selectors.DefaultSelector() as selector:
            selector.register(INPUT, selectors.EVENT_READ, "caller")
            for cell in self.cells:
                selector.register(cell.handle, selectors.EVENT_READ, cell)
                os.set_blocking(cell.pipe, False)
                selector.register(cell.pipe, selectors.EVENT_READ, (cell,))
            while not self.ended and not until():
                for key, _ in selector.select(LOOK_SECONDS):
                    self._event(selector, key)
                self._bounds()

    def _event(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        if key.data == "caller":
            if _has_closed(INPUT):
                self.ended = "abandoned"
        elif isinstance(key.data, Cell):
            _reap(key.data)
            selector.unregister(key.fileobj)
        else:
            if not _drain(*key.data):
                selector.unregister(key.fileobj)

    def _bounds(self) -> None:
        if time.monotonic() > self.deadline:
            self.ended = self.ended or "time"
        elif any(cell.written > self.limits.output_bytes for cell in self.cells):
            self.ended = self.ended or "output"
        elif _size(self.paths.scratch) > self.limits.file_bytes:
            self.ended = self.ended or "files"

    def finish(self) -> None:
        """End every process that is left, and read what the cells still had to say."""
        for cell in self.cells:
            if cell.status is None:
                signal.pidfd_send_signal(cell.handle, signal.SIGKILL)
                _reap(cell)
            os.set_blocking(cell.pipe, False)
            _drain(cell)
        _end_children()


def main() -> None:
    """Read the request, run it, write the report."""
    request = json.loads(_frame())
    started, limits = time.monotonic(), confine.Limits(**request["limits"])
    warden = Warden(
        limits, confine.Paths(**request["paths"]), started + limits.wall_seconds, request["required"]
    )
    warden.prepare()
    verdict = None
    if "program" in request:
        verdict = _judged(warden, request["program"])
    else:
        _commanded(warden, request)
    warden.finish()
    report = {
        "verdict": verdict,
        "ended": warden.ended,
        "wall_seconds": time.monotonic() - started,
        "cells": [_shown(cell) for cell in warden.cells],
    }
    os.write(OUTPUT, json.dumps(report).encode() + b"\n")


def _frame() -> bytes:
    """Return the next part of the request, and take no byte of what follows it."""
    length = int.from_bytes(_exactly(8), "big")
    return _exactly(length)


def _exactly(length: int) -> bytes:
    parts, missing = [], length
    while missing:
        part = os.read(INPUT, missing)
        if not part:
            sys.exit(FAILED)
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _judged(warden: Warden, program: str) -> dict[str, str] | None:
    """Run a program in one cell and its tests in another; return the judge's verdict, None where it gave none.

    The tests are read when the worker has forked, so that they are nowhere in its memory.
    """
    nonce = os.urandom(16).hex()
    line, stream = socket.socketpair()
    verdict, says = os.pipe()
    tests, asks = os.pipe()
    ends = line.fileno(), stream.fileno()
    work = (lambda: _judge(tests, says, values.Stream(ends[0], nonce)), (tests, says, ends[0]))
    tester = warden.start("tests", *work, foreign=False)
    warden.start("program", lambda: worker.run(program, values.Stream(ends[1], nonce)), (ends[1],))
    for ours in (*ends, tests, says):
        os.close(ours)
    # Where isolation is out of reach the judge has ended already, and the report says so.
    with contextlib.suppress(BrokenPipeError), os.fdopen(asks, "wb") as pipe:
        pipe.write(_frame())
    warden.watch(lambda: tester.status is not None)
    os.set_blocking(verdict, False)
    return _said(verdict) if tester.status == 0 else None


def _judge(asked: int, says: int, stream: values.Stream) -> None:
    with os.fdopen(asked, "rb") as pipe:
        tests = json.load(pipe)
    found = judge.run(tests["trusted"], tests["tests"], tests["asked"], stream)
    os.write(says, json.dumps(found).encode())


def _said(pipe: int) -> dict[str, str] | None:
    try:
        found = json.loads(os.read(pipe, _VERDICT_LIMIT))
    except (BlockingIOError, ValueError):
        return None
    return {"verdict": str(found["verdict"]), "detail": str(found["detail"])}


def _commanded(warden: Warden, request: dict[str, Any]) -> None:
    """Run a command to its end."""
    argv, environment = request["command"], request["environment"]
    cell = warden.start("program", lambda: os.execve(argv[0], argv, environment), (), execute=True)
    warden.watch(lambda: cell.status is not None)


def strength(level: str) -> int:
    """Return how much a level of isolation is worth; unknown ones nothing."""
    return confine.LEVELS.index(level) if level in confine.LEVELS else -1


def _has_closed(line: int) -> bool:
    try:
        return not os.read(line, 4096)
    except ConnectionResetError:
        return True


def _close_all_but(kept: set[int]) -> None:
    limit, ordered = 1 << 20, sorted(kept)
    for low, high in zip([-1, *ordered], [*ordered, limit], strict=True):
        if low + 1 < high:  # an empty range that ends at 0 would close everything
            os.closerange(low + 1, high)


def _reap(cell: Cell) -> None:
    if cell.status is None:
        _, status, usage = os.wait4(cell.pid, 0)
        cell.status = os.waitstatus_to_exitcode(status)
        cell.cpu_seconds = usage.ru_utime + usage.ru_stime
        cell.memory_bytes = usage.ru_maxrss << 10


def _drain(cell: Cell) -> bool:
    """Take what a cell has written; whether more may come."""
    try:
        part = os.read(cell.pipe, 1 << 16)
    except BlockingIOError:
        return True
    cell.written += len(part)
    cell.output += part[: max(0, KEPT_OUTPUT - len(cell.output))]
    return bool(part)


def _size(folder: str) -> float:
    """Return the bytes under a folder; every entry counts as a page at least, paths too long to follow as no end."""
    total, left = 0, [folder]
    while left:
        try:
            entries = list(os.scandir(left.pop()))
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return math.inf
            continue
        for entry in entries:
            total += _PAGE
            with contextlib.suppress(OSError):
                total += entry.stat(follow_symlinks=False).st_size
            if entry.is_dir(follow_symlinks=False):
                left.append(entry.path)
    return total


def _end_children() -> None:
    """End every process below this one; those whose parents ended are its own children by now."""
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for thread in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{thread}/children") as stream:
                for child in stream.read().split():
                    os.kill(int(child), signal.SIGKILL)
        time.sleep(_AGAIN)


def _shown(cell: Cell) -> dict[str, Any]:
    return {
        "name": cell.name,
        "level": cell.level,
        "status": cell.status,
        "cpu_seconds": cell.cpu_seconds,
        "memory_bytes": cell.memory_bytes,
        "output": cell.output.decode("utf-8", "replace"),
    }
