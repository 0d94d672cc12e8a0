"""The cell that runs foreign code: defines what the program defines, and answers calls for as long as it lives.

Whatever the program does to this process, it can only change what it answers, which is what it is asked for.
"""

import itertools
import sys
from typing import Any

from anneal_evaluation.sandbox import values

LARGEST_LISTING = 100_000
"""Items that are taken out of an iterator at most."""
_DIGITS = 100_000
"""Digits of an integer that may travel; the interpreter's own bound is 4,300."""


class Worker:
    """What is kept here, by number: objects that do not travel."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def keep(self, thing: Any) -> dict[str, Any]:
        """Return what travels for `thing`."""
        self.kept.append(thing)
        return values.remote(len(self.kept) - 1)

    def answer(self, request: dict[str, Any], namespace: dict[str, Any]) -> Any:
        """Do what is asked: call a name or a kept thing, or give a kept thing's attribute or items."""
        target = namespace[request["name"]] if "name" in request else self.kept[request["kept"]]
        if request["do"] == "attribute":
            return getattr(target, request["attribute"])
        if request["do"] == "items":
            return list(itertools.islice(target, LARGEST_LISTING))
        arguments = [values.decode(each, self.kept.__getitem__) for each in request["arguments"]]
        named = {key: values.decode(each, self.kept.__getitem__) for key, each in request["named"].items()}
        return target(*arguments, **named)


def run(program: str, stream: values.Stream) -> None:
    """Define what `program` defines, then answer requests until nobody asks any more."""
    worker, namespace = Worker(), {"__name__": "__candidate__"}
    sys.set_int_max_str_digits(_DIGITS)
    try:
        exec(compile(program, "<candidate>", "exec", dont_inherit=True), namespace)
    except BaseException as error:  # whatever it raises, SystemExit too, is its answer
        stream.write(_raised(error))
        return
    stream.write({"defined": sorted(name for name in namespace if not name.startswith("__"))})
    while True:
        try:
            request = stream.read()
        except EOFError:
            return
        try:
            answer = {"value": values.encode(worker.answer(request, namespace), worker.keep)}
        except BaseException as error:
            answer = _raised(error)
        stream.write(answer)


def _raised(error: BaseException) -> dict[str, Any]:
    try:
        text = str(error)[:400]
    except BaseException:
        text = ""
    kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
    return {"raised": type(error).__name__, "kinds": kinds, "text": text}
