"""Defects put into functions that had none: to be found, and to be repaired.

The changes are the usual operators of mutation testing (DeMillo, Lipton and Sayward, 1978): another comparison, another
operator, a constant off by one, a negation that is missing. Which one a function gets depends on its content.
Nothing is run, so a change may be one that no test would notice.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from typing import Any

from anneal_trainers.corpus.draws import chance, draw
from anneal_trainers.data.formats import Row
from anneal_trainers.makers import pairs, python
from anneal_trainers.makers.edits import Edit, Places, applied
from anneal_trainers.makers.python import Function

OTHER = {
    "<": "<=",
    "<=": "<",
    ">": ">=",
    ">=": ">",
    "==": "!=",
    "!=": "==",
    "in": "not in",
    "not in": "in",
    "is": "is not",
    "is not": "is",
    "and": "or",
    "or": "and",
    "+": "-",
    "-": "+",
    "*": "+",
    "//": "/",
}
_BETWEEN = re.compile(r"([\s)]*)(\S+(?: (?:in|not))?)([\s(]*)")


def repairs(documents: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Yield a row for each function that can be given a defect: the defective function, and the one without."""
    for function, wrong in _defective(documents):
        yield pairs.row(
            function, f"This Python function has a defect. Repair it.\n\n{wrong}", function.source
        )


def verdicts(documents: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Yield a row for each such function, every other one of them with the defect: is there one?"""
    for function, wrong in _defective(documents):
        has = chance(function.digest, "defect", 0.5)
        shown = wrong if has else function.source
        asked = f"Does this Python function have a defect? Answer yes or no.\n\n{shown}"
        yield pairs.row(function, asked, "yes" if has else "no")


def injected(source: str, digest: bytes) -> str | None:
    """Return a source with one defect, chosen by `digest`; None where there is no place for one."""
    tree = python.parsed(source)
    sites = sorted(set(_sites(tree, Places.of(source)))) if tree else []
    before = ast.dump(tree) if tree else ""
    for turn in range(len(sites)):
        site = sites[(draw(digest, "site") + turn) % len(sites)]
        changed = applied(source, [site])
        after = python.parsed(changed)
        if after is not None and ast.dump(after) != before:
            return changed
    return None


def _defective(documents: Iterable[Row]) -> Iterator[tuple[Function, str]]:
    for document in documents:
        if document.language == "python":
            for function in python.functions(document.path, document.text):
                if wrong := injected(function.source, function.digest):
                    yield function, wrong


def _sites(tree: ast.Module, places: Places) -> Iterator[Edit]:
    for node in _code(tree):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            yield from _operator(places, node.left, node.comparators[0])
        elif isinstance(node, ast.BoolOp):
            yield from _operator(places, node.values[0], node.values[1])
        elif isinstance(node, ast.BinOp):
            yield from _operator(places, node.left, node.right)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield Edit(places.begin(node), places.begin(node.operand), "")
        elif isinstance(node, ast.Constant):
            yield from _constant(places, node)


def _code(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the nodes of a tree but those of f-strings, whose places are not told, and of annotations and decorators."""
    skipped = {"annotation", "returns", "decorator_list"}
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for name, value in ast.iter_fields(node):
            children = value if isinstance(value, list) else [value]
            if name not in skipped and not isinstance(node, ast.JoinedStr):
                waiting.extend(child for child in children if isinstance(child, ast.AST))


def _operator(places: Places, left: ast.expr, right: ast.expr) -> Iterator[Edit]:
    found = _BETWEEN.fullmatch(places.between(left, right))
    if found and found[2] in OTHER:
        begin = places.end(left) + len(found[1])
        yield Edit(begin, begin + len(found[2]), OTHER[found[2]])


def _constant(places: Places, node: ast.Constant) -> Iterator[Edit]:
    if isinstance(node.value, bool):
        yield Edit(places.begin(node), places.end(node), str(not node.value))
    elif isinstance(node.value, int):
        yield Edit(places.begin(node), places.end(node), str(node.value + 1))
