"""Rows whose answers were found by running a function in the sandbox: what it returns, and tests that hold it to that.

A function is called with the arguments of its docstring's examples, with variations of them, and with plain values of the
types that its parameters are annotated with. What it says it returns is believed when a second run, judged in another
process, returns the same plain values; so nothing that is random, or that depends on the time, becomes a row.
"""

import ast
import doctest
import itertools
import os
import secrets
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anneal_evaluation.sandbox.confine import Limits
from anneal_evaluation.sandbox.runner import PYTHON, Sandbox, scratch
from anneal_trainers.corpus.draws import draw
from anneal_trainers.data.formats import Row
from anneal_trainers.makers import defects, pairs, python
from anneal_trainers.makers.python import Function

LEAST, MOST = 2, 10
"""Calls of a function that make it worth a row, and that are taken at most."""
LARGEST = 1000
"""Bytes of the literal of an argument list or a result."""
PER_FILE = 12
"""Functions of a file that are run at most."""
MUTANTS = 5
LIMITS = Limits(wall_seconds=5.0, cpu_seconds=4, memory_bytes=512 << 20)
VALUES: dict[str, tuple[Any, ...]] = {
    "int": (2, 0, 7, -3),
    "float": (0.5, 2.0, -1.25),
    "bool": (True, False),
    "str": ("hello world", "", "Abc-12"),
    "list[int]": ([3, 1, 2], [], [5, 5, -1]),
    "list[str]": (["b", "a"], [], ["x", "yy", "x"]),
    "dict[str, int]": ({"a": 1, "b": 2}, {}),
}
"""What parameters of an annotated type are given, in turn."""


@dataclass(frozen=True)
class Case:
    """A call, as source, and the literal of what it returns."""

    call: str
    value: str

    @property
    def test(self) -> str:
        """The statement that it does."""
        return f"assert {self.call} == {self.value}"


def code_io(documents: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Yield rows that ask for what a call returns, and for a call that returns it, in turn."""
    for function, _, cases in _run(documents):
        for number, case in enumerate(cases):
            if number % 2:
                asked = f"Find a call of this Python function that returns {case.value}"
                yield pairs.row(function, f"{asked}.\n\n{function.source}", case.call)
            else:
                asked = f"What does {case.call} return, with this Python function?"
                yield pairs.row(function, f"{asked}\n\n{function.source}", case.value)


def unit_tests(documents: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Yield a row for each function whose tests pass on it and fail on one that was given a defect."""
    box = Sandbox(LIMITS)
    for function, program, cases in _run(documents):
        tests = "\n".join(case.test for case in cases)
        if any(_is_caught(box, wrong, tests, function) for wrong in _mutants(function, program)):
            body = "\n".join(f"    {case.test}" for case in cases)
            asked = f"Write a test for this Python function.\n\n{function.source}"
            yield pairs.row(function, asked, f"def test_{function.name}():\n{body}")


def calls(function: Function) -> list[str]:
    """Return calls of a function to try, as source, each once."""
    examples = [*_examples(function)] or [*_by_type(function)]
    varied = (each for example in examples for each in _variations(example, function.digest))
    sources = (_call(function.name, example) for example in itertools.chain(examples, varied))
    return list(dict.fromkeys(source for source in sources if len(source) <= LARGEST))[:MOST]


def _run(documents: Iterable[Row]) -> Iterator[tuple[Function, str, list[Case]]]:
    box = Sandbox(LIMITS)
    for document in documents:
        if document.language == "python":
            of_file = python.functions(document.path, document.text)
            known = ((function, calls(function)) for function in of_file if "self" not in function.signature)
            for function, tried in itertools.islice((each for each in known if each[1]), PER_FILE):
                program = f"{_imports(document.text)}\n{function.source}\n"
                cases = _cases(box, program, tried)
                if len(cases) >= LEAST and _holds(box, program, cases, function):
                    yield function, program, cases


def _cases(box: Sandbox, program: str, tried: list[str]) -> list[Case]:
    """Return what a program says that calls return; one that does anything else is left out."""
    word = secrets.token_hex(16)
    lines = [
        f"for _text in {tried!r}:",
        "    try: _told = repr(eval(_text))",
        "    except Exception: continue",
    ]
    lines.append(f"    print('\\n{word}', repr((_text, _told)), flush=True)")
    with scratch() as folder:
        Path(folder, "main.py").write_text("\n".join([program, *lines]), encoding="utf-8")
        command = [os.path.realpath(sys.executable), "-I", "-S", f"{folder}/main.py"]
        said = box.command(command, folder, readable=PYTHON).output
    found = [line.removeprefix(f"{word} ") for line in said.splitlines() if line.startswith(f"{word} ")]
    cases = (Case(*pair) for pair in map(_literal, found) if pair is not None)
    return [case for case in cases if case.call in tried and _is_plain(case.value)]


def _holds(box: Sandbox, program: str, cases: list[Case], function: Function) -> bool:
    return box.judge(program, "\n".join(case.test for case in cases), [function.name]).passed


def _is_caught(box: Sandbox, program: str, tests: str, function: Function) -> bool:
    return box.judge(program, tests, [function.name]).state in ("failed", "crashed", "timeout")


def _mutants(function: Function, program: str) -> Iterator[str]:
    for number in range(MUTANTS):
        if wrong := defects.injected(function.source, function.digest + bytes([number])):
            yield program.replace(function.source, wrong)


def _is_plain(text: str) -> bool:
    """Whether a result is a small literal that says something."""
    return len(text) <= LARGEST and text != "None" and _literal(text) is not None


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def _examples(function: Function) -> Iterator[tuple[Any, ...]]:
    """Yield the arguments of the examples in a docstring that are calls of it with literals in order."""
    try:
        found = doctest.DocTestParser().get_examples(function.docstring)
    except ValueError:
        return
    for example in found:
        tree = python.parsed(example.source)
        statement = tree.body[0] if tree and len(tree.body) == 1 else None
        call = statement.value if isinstance(statement, ast.Expr) else None
        if isinstance(call, ast.Call) and not call.keywords and ast.unparse(call.func) == function.name:
            values = _literal(f"({''.join(ast.unparse(each) + ',' for each in call.args)})")
            if values is not None:
                yield values


def _by_type(function: Function) -> Iterator[tuple[Any, ...]]:
    """Yield arguments for parameters that are all annotated with types we have values of."""
    tree = python.parsed(function.source)
    node = tree.body[0] if tree and tree.body else None
    if not isinstance(node, ast.FunctionDef) or node.args.kwonlyargs or node.args.posonlyargs:
        return
    types = [ast.unparse(each.annotation) if each.annotation else "" for each in node.args.args]
    if types and all(name in VALUES for name in types):
        for turn in range(max(len(VALUES[name]) for name in types)):
            yield tuple(VALUES[name][(turn + place) % len(VALUES[name])] for place, name in enumerate(types))


def _variations(values: tuple[Any, ...], digest: bytes) -> Iterator[tuple[Any, ...]]:
    """Yield the arguments with one of them changed: larger, negative, turned round, doubled."""
    for place, value in enumerate(values):
        for other in _others(value, draw(digest, f"{place}")):
            yield (*values[:place], other, *values[place + 1 :])


def _others(value: Any, drawn: int) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1 + drawn % 5, -value]
    if isinstance(value, str | list | tuple):
        return [value[::-1], value * 2, value[:0]]
    return []


def _call(name: str, values: tuple[Any, ...]) -> str:
    return f"{name}({', '.join(map(repr, values))})"


def _imports(source: str) -> str:
    """Return the imports of a file that the standard library has."""
    tree = python.parsed(source)
    found = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)] if tree else []
    return "\n".join(ast.unparse(node) for node in found if _is_standard(node))


def _is_standard(node: ast.Import | ast.ImportFrom) -> bool:
    if isinstance(node, ast.ImportFrom):
        names = [node.module or ""] if not node.level else [""]
    else:
        names = [alias.name for alias in node.names]
    return all(name.split(".")[0] in sys.stdlib_module_names for name in names)
