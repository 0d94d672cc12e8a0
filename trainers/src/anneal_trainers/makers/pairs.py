"""Pairs of a function and what it says of itself: to be described, to be written, and, with examples, to be solved."""

import doctest
from collections.abc import Iterable, Iterator
from typing import Any

from anneal_trainers.data.formats import Row
from anneal_trainers.makers import python
from anneal_trainers.makers.python import Function


def docstrings(documents: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Yield two rows a documented function: its docstring from its source, and its source from its docstring."""
    for function in _functions(documents):
        yield row(
            function, f"Write the docstring of this Python function.\n\n{function.source}", function.docstring
        )
        asked = f"Write this Python function.\n\n{function.signature}\n    {_quoted(function.docstring)}"
        yield row(function, asked, function.source)


def exercises(documents: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Yield a row for every function whose docstring has examples: a problem with examples, and its solution.

    Whether the examples hold is not tried here: that would run the code.
    """
    for function in _functions(documents):
        if examples := _examples(function.docstring):
            asked = (
                f"Solve this exercise in Python.\n\n{function.summary}\n\n"
                f"Write a function with this signature:\n\n{function.signature}\n\nExamples:\n\n{examples}"
            )
            yield row(function, asked, function.source)


def row(function: Function, instruction: str, output: str) -> dict[str, Any]:
    """Return a row about a function: one file's are in one part of the split."""
    about = {"instruction": instruction, "output": output, "group": function.path}
    return about | python.rated(function.source)


def _functions(documents: Iterable[Row]) -> Iterator[Function]:
    for document in documents:
        if document.language == "python":
            yield from python.functions(document.path, document.text)


def _examples(docstring: str) -> str:
    try:
        found = doctest.DocTestParser().get_examples(docstring)
    except ValueError:  # a prompt without the space after it, or a wrong indent
        return ""
    return "\n".join(map(_shown, filter(lambda example: example.want, found)))


def _shown(example: doctest.Example) -> str:
    first, *rest = example.source.rstrip().split("\n")
    return "\n".join([f">>> {first}", *(f"... {line}" for line in rest), example.want.rstrip()])


def _quoted(docstring: str) -> str:
    return '"""' + docstring.replace("\n", "\n    ") + '"""'
