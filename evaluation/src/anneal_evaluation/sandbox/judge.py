"""The cell that runs the tests: calls what the program defined through the worker, compares, and says the verdict.

Foreign code never runs here. Of its names only those that the tests use come from the worker, so that it can't put
an `abs` or a `sorted` of its own in their place.
"""

import builtins
import sys
from collections.abc import Iterator
from typing import Any

from anneal_evaluation.sandbox import values

_DIGITS = 100_000
_NOTHING = {"do": "call", "arguments": [], "named": {}}


class CandidateError(Exception):
    """The program raised something that is no built-in exception, or ended."""


class Unjudgeable(Exception):
    """The tests ask for something that cannot travel: their fault, not the program's."""


class Remote:
    """A thing that stayed in the worker; equal to nothing but itself, and neither true nor false."""

    def __init__(self, channel: "Channel", target: dict[str, Any]) -> None:
        self.__dict__.update(_channel=channel, _target=target)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        given = {"arguments": list(map(_sent, arguments)), "named": {k: _sent(v) for k, v in named.items()}}
        return self._channel.ask(self._target | _NOTHING | given)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._channel.ask(self._target | {"do": "attribute", "attribute": name})

    def __iter__(self) -> Iterator[Any]:
        return iter(self._channel.ask(self._target | {"do": "items"}))

    def __bool__(self) -> bool:
        raise CandidateError("the result is an object of the program's own, which is neither true nor false")


class Channel:
    """The judge's end."""

    def __init__(self, stream: values.Stream) -> None:
        self._stream = stream

    def defined(self) -> list[str]:
        """Return the names that the program has defined; raises what it raised."""
        names = self._read().get("defined")
        if not isinstance(names, list):
            raise CandidateError("the program says nothing of what it defines")
        return names

    def ask(self, request: dict[str, Any]) -> Any:
        """Return what the worker answers, or raise what it raised."""
        try:
            self._stream.write(request)
        except OSError as error:
            raise CandidateError("the program has ended") from error
        answer = self._read()
        if "value" not in answer:
            raise CandidateError("the program answers with no value")
        return values.decode(answer["value"], lambda number: Remote(self, {"kept": number}))

    def _read(self) -> dict[str, Any]:
        try:
            answer = self._stream.read()
        except (EOFError, OSError) as error:
            raise CandidateError("the program has ended") from error
        if not isinstance(answer, dict):
            raise CandidateError("the program answers with no value")
        if "raised" in answer:
            raise _as_raised(answer)
        return answer


def _as_raised(answer: dict[str, Any]) -> Exception:
    """Return the built-in exception nearest to what was raised; one that would end the judge is none."""
    text = f"{answer['raised']}: {answer.get('text', '')}"
    for name in answer.get("kinds") or ():
        kind = getattr(builtins, str(name), None)
        # An assertion that fails in the program is the program's: the tests' own are told apart by type.
        if isinstance(kind, type) and issubclass(kind, Exception) and kind not in (Exception, AssertionError):
            try:
                return kind(text)
            except TypeError:
                break
    return CandidateError(text)


def _sent(value: Any) -> Any:
    return values.encode(value, _no_way)


def _no_way(value: Any) -> Any:
    if isinstance(value, Remote) and "kept" in value._target:
        return values.remote(value._target["kept"])
    raise Unjudgeable(f"the tests pass a {type(value).__name__} to the program, which cannot travel to it")


def run(trusted: str, tests: str, asked: list[str], stream: values.Stream) -> dict[str, str]:
    """Return the verdict: passed, failed (with the first reason) or unjudgeable.

    `trusted` is code of the problem's own that the tests build on; the names in `asked`, and no others, are the program's.
    """
    sys.set_int_max_str_digits(_DIGITS)
    channel = Channel(stream)
    namespace: dict[str, Any] = {"__name__": "__tests__"}
    try:
        defined = channel.defined()
        exec(compile(trusted, "<problem>", "exec", dont_inherit=True), namespace)
        for name in asked:
            namespace.pop(name, None)
            if name in defined:
                namespace[name] = Remote(channel, {"name": name})
        exec(compile(tests, "<tests>", "exec", dont_inherit=True), namespace)
    except Unjudgeable as error:
        return {"verdict": "unjudgeable", "detail": str(error)}
    except BaseException as error:
        return {"verdict": "failed", "detail": f"{type(error).__name__}: {error}"[:400]}
    return {"verdict": "passed", "detail": ""}
