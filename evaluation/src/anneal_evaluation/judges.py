"""Who judges the programs of a suite: this process's sandbox, or the judges that the operator put beside a pod's work."""

import json
import os
import socket
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from anneal_api.runs import ENV_JUDGES, JUDGES_FOLDER
from anneal_evaluation.judging import Case, Here
from anneal_evaluation.sandbox.runner import Verdict
from anneal_runtime.errors import Refused

_START_SECONDS = 60.0
_AGAIN_SECONDS = 0.1


class Judges(Protocol):
    """Whoever judges."""

    def check(self, wanted: Iterable[str]) -> None:
        """Raise Refused where a language cannot be judged."""

    def judge(self, case: Case) -> Verdict:
        """Return the verdict on a program."""


@dataclass(frozen=True)
class Apart:
    """Judges behind sockets, one a language, in containers without a key of the store."""

    languages: frozenset[str]
    folder: Path = Path(JUDGES_FOLDER)
    start_seconds: float = _START_SECONDS

    def check(self, wanted: Iterable[str]) -> None:
        """Raise Refused where a language has no judge."""
        for language in sorted(set(wanted) - self.languages):
            raise Refused(
                "NoToolchain",
                f"programs in {language} cannot be judged in this cluster, those in {', '.join(sorted(self.languages))} can; "
                f"leave its problems out, or have the administrator set the chart's images.sandboxes.{language}",
            )

    def judge(self, case: Case) -> Verdict:
        """Return the verdict of the language's judge, who may still be starting."""
        try:
            with self._connected(case.language) as line, line.makefile("rwb") as stream:
                stream.write(json.dumps(asdict(case)).encode() + b"\n")
                stream.flush()
                return _read(stream.readline())
        except OSError as error:
            return Verdict("error", f"the judge of {case.language} is away: {error}")

    def _connected(self, language: str) -> socket.socket:
        deadline = time.monotonic() + self.start_seconds
        while True:
            line = socket.socket(socket.AF_UNIX)
            try:
                line.connect(str(self.folder / language))
            except OSError:
                line.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(_AGAIN_SECONDS)
            else:
                return line


def _read(line: bytes) -> Verdict:
    if not line:
        return Verdict("error", "the judge ended before its verdict")
    said: dict[str, Any] = json.loads(line)
    if "refused" in said:
        raise Refused(*said["refused"])
    return Verdict(**said["verdict"])


def chosen() -> Judges:
    """Return the judges of this pod, or this process's sandbox where the operator named none."""
    named = os.environ.get(ENV_JUDGES, "")
    return Apart(frozenset(named.split(","))) if named else Here()
