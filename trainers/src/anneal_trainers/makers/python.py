"""Python's functions as makers see them: where they stand, what they say of themselves, how intricate they are."""

import ast
import hashlib
import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

_BRANCHES = (
    ast.If,
    ast.IfExp,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.Try,
    ast.With,
    ast.BoolOp,
    ast.comprehension,
    ast.ExceptHandler,
    ast.Match,
)


@dataclass(frozen=True)
class Function:
    """A documented function of a file, dedented; `body` is what follows its docstring."""

    path: str
    name: str
    signature: str
    docstring: str
    body: str

    @property
    def source(self) -> str:
        """The function without its docstring."""
        return f"{self.signature}\n{self.body}"

    @property
    def summary(self) -> str:
        """The docstring's first paragraph, as one line."""
        return self.docstring.split("\n\n")[0].replace("\n", " ").strip()

    @property
    def digest(self) -> bytes:
        """What is drawn for the function depends on."""
        return hashlib.sha256(f"{self.path}\n{self.source}".encode()).digest()


def functions(path: str, source: str) -> Iterator[Function]:
    """Yield the functions of a file that have a docstring and more; none of a file that does not parse."""
    tree = parsed(source)
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) and len(node.body) > 1:
            function = _function(path, node, source.splitlines())
            if function.signature.endswith(":"):
                yield function


def parsed(source: str) -> ast.Module | None:
    """Return the syntax tree of a source, None where it has none or one too deep to be walked."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def difficulty(source: str) -> float | None:
    """Return how intricate a source is by its syntax tree, None where it does not parse.

    The sum of three logarithms to the base 2, so that none drowns the others: of its nodes (how much there is to write), of
    its decisions plus one (McCabe, 1976) and of its depth.
    """
    tree = parsed(source)
    if tree is None:
        return None
    nodes = decisions = deepest = 0
    level: list[ast.AST] = [tree]
    while level:
        nodes, deepest = nodes + len(level), deepest + 1
        decisions += sum(isinstance(node, _BRANCHES) for node in level)
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    return round(math.log2(nodes) + math.log2(1 + decisions) + math.log2(deepest), 3)


def rated(source: str, language: str = "python") -> dict[str, float]:
    """Return the key `difficulty` of a row made of a source, none where it has none."""
    value = difficulty(source) if language == "python" else None
    return {} if value is None else {"difficulty": value}


def _function(path: str, node: ast.FunctionDef, lines: list[str]) -> Function:
    docstring = node.body[0]
    signature = textwrap.dedent("\n".join(lines[node.lineno - 1 : docstring.lineno - 1]))
    body = lines[(docstring.end_lineno or docstring.lineno) : node.end_lineno]
    indent = " " * node.col_offset
    plain = "\n".join(line.removeprefix(indent).rstrip() for line in body).strip("\n")
    return Function(path, node.name, signature, ast.get_docstring(node) or "", plain)
