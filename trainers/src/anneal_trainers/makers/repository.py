"""Repository context for fill in the middle: a file after those it imports, so that a gap can be filled by what they define.

Files are put in the order of their dependencies, each under a comment with its path (DeepSeek-Coder, arXiv 2401.14196,
section 2.2). Of the imported files the nearest come last, and the farthest are left out when the text grows too long.
All files that depend on each other, however indirectly, are one group, and so in one part of the split.
"""

import ast
import pathlib
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from anneal_trainers.data.formats import Row
from anneal_trainers.makers import python

CHARACTERS = 24_000
"""Of the context of a file: about 8000 tokens."""


def in_context(documents: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Yield a text for every Python file that imports another one of the tree; all texts are held."""
    files = {row.path: row.text for row in documents if row.language == "python"}
    imports = {path: imported(path, text, files) for path, text in files.items()}
    groups = _groups(imports)
    for path in sorted(files):
        context = _context(path, imports, files)
        if context:
            text = "\n".join(f"# {each}\n{files[each]}" for each in [*context, path])
            yield {
                "text": text,
                "path": path,
                "language": "python",
                "group": groups[path],
                **python.rated(files[path]),
            }


def imported(path: str, text: str, files: Collection[str]) -> list[str]:
    """Return the paths among `files` that a file imports, in the order of its statements."""
    tree = python.parsed(text)
    names = [name for node in ast.walk(tree) for name in _names(node, path)] if tree else []
    found = dict.fromkeys(_file(name, path, files) for name in names)
    return [each for each in found if each and each != path]


def _names(node: ast.AST, path: str) -> Iterator[str]:
    """Yield the modules that a statement may import: of `from a import b` a.b and a."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = path.split("/")[: -node.level] if node.level else []
        base = ".".join([*above, *filter(None, [node.module])])
        yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names)
        yield base


def _file(name: str, path: str, files: Collection[str]) -> str:
    """Return the file of a module: below the nearest folder above `path`, or src in it, that has it; else nothing."""
    inner = name.replace(".", "/")
    for root in pathlib.PurePosixPath(path).parents if inner else ():
        for folder in (root, root / "src"):
            for end in (".py", "/__init__.py"):
                if (found := str(folder / f"{inner}{end}")) in files:
                    return found
    return ""


def _context(path: str, imports: dict[str, list[str]], files: dict[str, str]) -> list[str]:
    """Return what a file depends on, dependencies before their users, as many of the nearest as there is room for."""
    near: dict[str, None] = {}
    level = imports[path]
    while level:
        near |= dict.fromkeys(each for each in level if each != path and each not in near)
        level = [each for known in level for each in imports[known] if each != path and each not in near]
    chosen, room = [], CHARACTERS
    for each in near:
        room -= len(files[each])
        if room < 0:
            break
        chosen.append(each)
    return chosen[::-1]


def _groups(imports: dict[str, list[str]]) -> dict[str, str]:
    """Return for every file the least path of those it is connected with."""
    neighbours: dict[str, set[str]] = {path: set(found) for path, found in imports.items()}
    for path, found in imports.items():
        for each in found:
            neighbours[each].add(path)
    groups: dict[str, str] = {}
    for path in sorted(imports):
        waiting = [path] if path not in groups else []
        while waiting:
            one = waiting.pop()
            groups[one] = path
            waiting += [each for each in neighbours[one] if each not in groups]
    return groups
