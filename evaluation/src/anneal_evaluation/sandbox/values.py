"""Plain values as JSON between worker and judge.

What arrives at the judge is built here, of the interpreter's own types: an object whose __eq__ lies cannot travel. What
is none of these stays in the worker; its number travels, and equals nothing but itself.
"""

import datetime
import decimal
import fractions
import json
import os
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

MESSAGE_LIMIT = 8 << 20
"""Bytes of one message: a result beyond it is no answer to a problem."""
_TAG = "="
"""Key of the one-entry objects that stand for what JSON has no type for."""


class BadMessage(ValueError):
    """What arrived is no message of ours, or too long."""


def encode(value: Any, kept: Callable[[Any], Any]) -> Any:
    """Return `value` in JSON's types; `kept` gives what stands for a thing that does not travel."""
    if value is None or isinstance(value, bool):
        return value
    for plain in (str, float, int):
        if isinstance(value, plain):
            return _PLAIN[plain](value)
    inner = (
        [encode(each, kept) for each in value]
        if isinstance(value, (list, tuple, set, frozenset, deque))
        else []
    )
    if isinstance(value, list):
        return inner
    for kind in (tuple, set, frozenset, deque):
        if isinstance(value, kind):
            return {_TAG: kind.__name__, "of": inner}
    if isinstance(value, dict):
        return {_TAG: "dict", "of": [[encode(k, kept), encode(v, kept)] for k, v in value.items()]}
    if isinstance(value, (bytes, bytearray)):
        return {_TAG: type(value).__name__, "of": bytes(value).hex()}
    return _scalar(value) or kept(value)


_PLAIN: dict[type, Callable[[Any], Any]] = {str: str.__str__, float: float.__float__, int: int.__int__}
"""How a value of a subclass becomes one of the type, whatever the subclass says of itself."""


def _scalar(value: Any) -> dict[str, Any] | None:
    if isinstance(value, complex):
        return {_TAG: "complex", "of": [value.real, value.imag]}
    if isinstance(value, range):
        return {_TAG: "range", "of": [value.start, value.stop, value.step]}
    if isinstance(value, (decimal.Decimal, fractions.Fraction)):
        return {_TAG: type(value).__name__, "of": str(value)}
    if isinstance(value, (datetime.date, datetime.time)):
        return {_TAG: type(value).__name__, "of": value.isoformat()}
    return None


def decode(value: Any, remote: Callable[[int], Any]) -> Any:
    """Return the value that `encode` was given; `remote` makes what stands for a thing that stayed behind."""
    if isinstance(value, list):
        return [decode(each, remote) for each in value]
    if not isinstance(value, dict):
        return value
    name, content = value.get(_TAG), value.get("of")
    if name == "remote" and isinstance(content, int):
        return remote(content)
    try:
        return _BUILT[str(name)](content, lambda each: decode(each, remote))
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise BadMessage(f"no value: {str(value)[:80]}") from error


def remote(number: int) -> dict[str, Any]:
    """Return what travels for a thing that stays."""
    return {_TAG: "remote", "of": number}


def _items(content: Any, inner: Callable[[Any], Any]) -> Iterable[tuple[Any, Any]]:
    return [(inner(key), inner(item)) for key, item in content]


_BUILT: dict[str, Callable[[Any, Callable[[Any], Any]], Any]] = {
    "tuple": lambda content, inner: tuple(map(inner, content)),
    "set": lambda content, inner: set(map(inner, content)),
    "frozenset": lambda content, inner: frozenset(map(inner, content)),
    "deque": lambda content, inner: deque(map(inner, content)),
    "dict": lambda content, inner: dict(_items(content, inner)),
    "bytes": lambda content, inner: bytes.fromhex(content),
    "bytearray": lambda content, inner: bytearray.fromhex(content),
    "complex": lambda content, inner: complex(*content),
    "range": lambda content, inner: range(*content),
    "Decimal": lambda content, inner: decimal.Decimal(content),
    "Fraction": lambda content, inner: fractions.Fraction(content),
    "datetime": lambda content, inner: datetime.datetime.fromisoformat(content),
    "date": lambda content, inner: datetime.date.fromisoformat(content),
    "time": lambda content, inner: datetime.time.fromisoformat(content),
}


class Stream:
    """One end of the channel: a line a message, which the nonce tells from what foreign code may write."""

    def __init__(self, descriptor: int, nonce: str) -> None:
        self._descriptor, self._nonce = descriptor, f"{nonce} ".encode()
        self._reader = os.fdopen(descriptor, "rb", closefd=False)

    def write(self, message: Any) -> None:
        """Write one message, on a line of its own whatever stands before it."""
        left = memoryview(b"\n" + self._nonce + json.dumps(message).encode() + b"\n")
        while left:
            left = left[os.write(self._descriptor, left) :]

    def read(self) -> Any:
        """Return the next message; lines without the nonce are passed over.

        Raises:
            EOFError: the other side is gone.
            ValueError: too long (BadMessage), or no JSON.
        """
        while line := self._reader.readline(MESSAGE_LIMIT):
            if not line.endswith(b"\n"):
                raise BadMessage(f"a message of more than {MESSAGE_LIMIT >> 20} MiB, or cut off")
            if line.startswith(self._nonce):
                return json.loads(line[len(self._nonce) :])
        raise EOFError
