"""Renaming augmentation: the local variables of functions under other names, which leaves what they compute as it was.

A model that is tuned on both learns less by names and more by structure. Parameters keep their names, as callers may use
them, and so does what anything but a plain name may refer to: in nested functions, classes, f-strings and handlers.
"""

import ast
from collections.abc import Iterable, Iterator
from typing import Any

from anneal_trainers.corpus.draws import draw
from anneal_trainers.data.formats import Row
from anneal_trainers.makers import python
from anneal_trainers.makers.edits import Edit, Places, applied

POOL = (
    *(
        "result",
        "item",
        "value",
        "index",
        "total",
        "entry",
        "current",
        "found",
        "text",
        "size",
        "name",
        "left",
    ),
    *(
        "right",
        "first",
        "last",
        "count",
        "key",
        "part",
        "line",
        "number",
        "begin",
        "end",
        "step",
        "other",
        "buffer",
    ),
)
_READS_NAMES = {"locals", "vars", "eval", "exec", "dir", "globals"}


def renamed(documents: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Yield a text for every Python file in which a name can be changed."""
    for document in documents:
        if document.language == "python" and (text := other_names(document.text, document.path)):
            yield {
                "text": text,
                "path": document.path,
                "language": document.language,
                "group": document.path,
                **python.rated(text),
            }


def other_names(source: str, about: str = "") -> str | None:
    """Return a source with other local names, chosen by its content; None where nothing can be renamed."""
    tree = python.parsed(source)
    if tree is None:
        return None
    places = Places.of(source)
    edits: list[Edit] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and _is_plain(node):
            names = _chosen(node, f"{about}\n{ast.dump(node)}")
            edits += [
                Edit(places.begin(each), places.end(each), names[each.id])
                for each in ast.walk(node)
                if isinstance(each, ast.Name) and each.id in names
            ]
    return applied(source, edits) if edits else None


def _is_plain(function: ast.FunctionDef) -> bool:
    inner = [node for node in ast.walk(function) if node is not function]
    nested = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    reads = {node.id for node in inner if isinstance(node, ast.Name)} & _READS_NAMES
    return not reads and not any(isinstance(node, nested) for node in inner)


def _chosen(function: ast.FunctionDef, content: str) -> dict[str, str]:
    """Return the new names of a function's local variables: of the pool, and none that the function knows."""
    digest, used = content.encode(), _names(function)
    free = [name for name in POOL if name not in used]
    names: dict[str, str] = {}
    for name in sorted(_locals(function)):
        if free:
            names[name] = free.pop(draw(digest, name) % len(free))
    return names


def _locals(function: ast.FunctionDef) -> set[str]:
    stored: set[str] = set()
    kept: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            stored.add(node.id)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            kept.update(node.names)
        elif isinstance(node, ast.arg):
            kept.add(node.arg)
        elif isinstance(node, ast.JoinedStr):
            kept.update(each.id for each in ast.walk(node) if isinstance(each, ast.Name))
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
            kept.update(filter(None, [node.name]))
        elif isinstance(node, ast.MatchMapping):
            kept.update(filter(None, [node.rest]))
        elif isinstance(node, ast.alias):
            kept.add((node.asname or node.name).split(".")[0])
    return stored - kept


def _names(function: ast.FunctionDef) -> set[str]:
    found = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    found |= {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    found |= {
        part.asname or part.name
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for part in node.names
    }
    return found | {
        node.name for node in ast.walk(function) if isinstance(node, ast.ExceptHandler) and node.name
    }
