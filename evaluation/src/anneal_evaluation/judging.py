"""One program judged: in this process's sandbox, or by a judge that listens in a container of its language.

    python3 -m anneal_evaluation.judging LANGUAGE SOCKET

Such a container has a toolchain, this sandbox and a socket, and nothing of what its pod may reach: no key of the store in
its environment, no claim, no token. The standard library alone is needed there.
"""

import json
import signal
import socketserver
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from anneal_evaluation import languages
from anneal_evaluation.sandbox.runner import Sandbox, Verdict
from anneal_evaluation.sandbox.wardens import InfrastructureError
from anneal_runtime.errors import Refused


@dataclass(frozen=True)
class Case:
    """A program and what it is judged by; the fields of a problem."""

    language: str
    program: str
    tests: str
    asked: tuple[str, ...] = ()
    trusted: str = ""


@dataclass(frozen=True)
class Here:
    """Judges in this process's sandbox."""

    box: Sandbox = field(default_factory=Sandbox)

    def check(self, wanted: Iterable[str]) -> None:
        """Raise Refused where a language cannot be judged."""
        languages.check(list(wanted))

    def judge(self, case: Case) -> Verdict:
        """Return the verdict on a program."""
        try:
            if case.language == "python":
                return self.box.judge(case.program, case.tests, case.asked, case.trusted)
            return languages.judge(self.box, case.language, case.program, case.tests)
        except InfrastructureError as error:
            return Verdict("error", str(error))


def answer(judge: Here, line: bytes) -> bytes:
    """Return what a judge says to a case, a line of JSON each."""
    try:
        case = Case(**json.loads(line))
        judge.check([case.language])
        said: dict[str, Any] = {"verdict": asdict(judge.judge(case))}
    except Refused as error:
        said = {"refused": [error.reason, error.message]}
    return json.dumps(said).encode() + b"\n"


class Server(socketserver.ThreadingUnixStreamServer):
    """A judge at a socket; one that ended before has left the socket's name to this one."""

    daemon_threads = True

    def __init__(self, place: Path) -> None:
        self.judge = Here()
        place.unlink(missing_ok=True)
        super().__init__(str(place), _Handler)


class _Handler(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        self.wfile.write(answer(self.server.judge, self.rfile.readline()))


def main(language: str, place: str) -> None:
    """Judge programs of a language until this process is ended."""
    # The first process of a container is not ended by a signal that it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    languages.check([language])  # and prepare what its first program would wait for
    Server(Path(place)).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
