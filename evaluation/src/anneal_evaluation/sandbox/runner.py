"""The trusted side: gives a program and its tests to a warden and reads what became of them.

Nothing of the program's runs in this process, in one that outlives the sample, or where this process's
environment, files and network are in reach. What went wrong outside the program is told apart from a wrong answer.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from anneal_evaluation.sandbox.confine import LEVELS, Limits
from anneal_evaluation.sandbox.wardens import InfrastructureError, Wardens
from anneal_runtime.errors import Refused

State = Literal["passed", "failed", "timeout", "crashed", "limit", "error"]
"""`failed`: the tests say no; `timeout`, `crashed`, `limit` (output, files): the program's doing; `error`: not its."""

_CPU_TOLERANCE = 0.25
"""Seconds between what the kernel ends a program of several threads by, and what it says they have used."""
LIMITS = Limits()
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/alternatives")
"""What every program may read: the system's programs and libraries, and nothing that says where it is."""
PYTHON = (sys.base_prefix, sysconfig.get_path("stdlib"))


@dataclass(frozen=True)
class Verdict:
    """What became of a program."""

    state: State
    detail: str = ""
    level: str = ""
    """Isolation that was reached."""
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    output: str = ""

    @property
    def passed(self) -> bool:
        """Whether all tests passed."""
        return self.state == "passed"


@dataclass(frozen=True)
class Sandbox:
    """Runs programs one at a time; several threads may use one."""

    limits: Limits = LIMITS
    required: str = "filtered"
    """The weakest isolation that is good enough."""
    _wardens: Wardens = field(default_factory=Wardens, init=False, repr=False, compare=False)

    def judge(self, program: str, tests: str, asked: Sequence[str], trusted: str = "") -> Verdict:
        """Run Python: define `program` in one process; in another, `trusted` and then `tests`, whose `asked` names are
        the program's.

        Raises:
            Refused: the required isolation is out of reach.
        """
        frames = ({"program": program}, {"tests": tests, "trusted": trusted, "asked": list(asked)})
        with scratch() as folder:
            report = self._run(self.limits, folder, PYTHON, frames)
        tester, worker = report["cells"]
        return _verdict(report, self.limits, worker, report["verdict"], tester)

    def command(
        self,
        argv: Sequence[str],
        folder: str,
        *,
        limits: Limits | None = None,
        readable: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Verdict:
        """Run a command in `folder`, the only place it may write to; `passed` is exit status 0.

        Raises:
            Refused: the required isolation is out of reach.
        """
        frame = {
            "command": list(argv),
            "environment": {"PATH": "/usr/bin:/bin", "HOME": folder, "TMPDIR": folder, **(environment or {})},
        }
        report = self._run(limits or self.limits, folder, readable, (frame,))
        (cell,) = report["cells"]
        return _verdict(report, limits or self.limits, cell, None, None)

    def _run(
        self, limits: Limits, folder: str, readable: Sequence[str], frames: Sequence[dict[str, Any]]
    ) -> dict[str, Any]:
        paths = {"readable": [*SYSTEM, *readable], "scratch": folder}
        first = {"limits": asdict(limits), "paths": paths, "required": self.required, **frames[0]}
        request = b"".join(_framed(frame) for frame in (first, *frames[1:]))
        report = self._wardens.report(request, limits.wall_seconds)
        for cell in report["cells"]:
            if not cell["level"]:
                raise InfrastructureError(
                    f"the cell of the {cell['name']} could not be made: {cell['output']}"
                )
        level = report["cells"][-1]["level"]  # of the foreign code
        if LEVELS.index(level) < LEVELS.index(self.required):
            raise Refused(
                "IsolationMissing",
                f"untrusted code must run at isolation {self.required} here, and the machine allows {level}; take a node "
                "with Linux 5.13 or later on x86_64 whose seccomp profile allows Landlock (RuntimeDefault does)",
            )
        return {**report, "level": level}


@contextmanager
def scratch() -> Iterator[str]:
    """Yield an empty folder that is gone afterwards, whatever was put there."""
    folder = tempfile.mkdtemp(prefix="anneal-sandbox-")
    try:
        yield folder
    finally:
        if os.listdir(folder):
            # Not shutil's, which recurses and can be made to fail by depth.
            subprocess.run([shutil.which("rm") or "/bin/rm", "-rf", "--", folder], check=True)
        else:
            os.rmdir(folder)


def _framed(frame: dict[str, Any]) -> bytes:
    body = json.dumps(frame).encode()
    return len(body).to_bytes(8, "big") + body


def _verdict(
    report: dict[str, Any],
    limits: Limits,
    cell: dict[str, Any],
    judged: dict[str, str] | None,
    tester: dict[str, Any] | None,
) -> Verdict:
    late = any(each and _used_up(each, limits) for each in (cell, tester))
    state, detail = _state("time" if late else report["ended"], cell, judged, tester)
    return Verdict(
        state=state,
        detail=detail,
        level=report["level"],
        wall_seconds=report["wall_seconds"],
        cpu_seconds=cell["cpu_seconds"],
        memory_bytes=cell["memory_bytes"],
        output=cell["output"],
    )


def _state(
    ended: str, cell: dict[str, Any], judged: dict[str, str] | None, tester: dict[str, Any] | None
) -> tuple[State, str]:
    status = cell["status"]
    if ended == "time":
        return "timeout", "it took longer than it may"
    if ended:
        return "limit", f"more {ended} than it may write"
    if tester is None:
        return _of_status(status, cell["output"])
    if judged is None:
        # Tests that end without a word do so for what the program answered: reference solutions have run before.
        return "crashed", f"the tests ended with {tester['status']}: {tester['output'][-400:]}"
    if judged["verdict"] == "unjudgeable":
        return "error", judged["detail"]
    if judged["verdict"] == "failed" and status < 0 and status != -signal.SIGKILL:
        return "crashed", f"signal {-status}; {judged['detail']}"
    return ("passed" if judged["verdict"] == "passed" else "failed"), judged["detail"]


def _used_up(cell: dict[str, Any], limits: Limits) -> bool:
    """Whether the kernel ended a cell for its use of the processor."""
    return bool(cell["status"] < 0 and cell["cpu_seconds"] > limits.cpu_seconds - _CPU_TOLERANCE)


def _of_status(status: int, output: str) -> tuple[State, str]:
    if status < 0:
        return "crashed", f"signal {-status}"
    return ("failed", f"exit status {status}: {output[-400:]}") if status else ("passed", "")
