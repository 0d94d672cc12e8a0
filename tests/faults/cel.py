"""The part of the Common Expression Language that rules of our CRDs are written in (github.com/google/cel-spec)."""

import re
from collections.abc import Callable, Mapping
from typing import Any

TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?)|(?P<text>'[^']*')|(?P<name>[A-Za-z_]\w*)|(?P<sign>&&|\|\||[=!<>]=|[-!<>+*/()\[\],.?:]))"
)
Env = Mapping[str, Any]
Node = Callable[[Env], Any]
BINARY: list[dict[str, Callable[[Any, Any], Any]]] = [
    {"||": lambda a, b: a or b},
    {"&&": lambda a, b: a and b},
    {
        "==": lambda a, b: a == b,
        "!=": lambda a, b: a != b,
        "<": lambda a, b: a < b,
        "<=": lambda a, b: a <= b,
        ">": lambda a, b: a > b,
        ">=": lambda a, b: a >= b,
    },
    {"+": lambda a, b: a + b, "-": lambda a, b: a - b},
    {"*": lambda a, b: a * b},
]
MACROS: dict[str, Callable[[list[Any]], Any]] = {
    "all": all,
    "exists": any,
    "exists_one": lambda found: sum(map(bool, found)) == 1,
}


METHODS: dict[str, Callable[[Any], Any]] = {"isSorted": lambda value: list(value) == sorted(value)}


class Parser:
    """Recursive descent; every rule returns a function of the environment."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)

    def parse(self) -> Node:
        node = self._binary(0)
        if self._tokens:
            raise SyntaxError(f"left over: {self._tokens}")
        return node

    def _take(self, *signs: str) -> str | None:
        return self._tokens.pop(0) if self._tokens and self._tokens[0] in signs else None

    def _expect(self, sign: str) -> None:
        if self._take(sign) is None:
            raise SyntaxError(f"{sign} expected before {self._tokens[:3]}")

    def _binary(self, level: int) -> Node:
        if level == len(BINARY):
            return self._unary()
        left = self._binary(level + 1)
        while sign := self._take(*BINARY[level]):
            left = _joined(sign, BINARY[level][sign], left, self._binary(level + 1))
        return left

    def _unary(self) -> Node:
        if self._take("!"):
            inner = self._unary()
            return lambda env: not inner(env)
        node = self._primary()
        while self._take("."):
            node = self._member(node, self._tokens.pop(0))
        return node

    def _member(self, node: Node, name: str) -> Node:
        if self._take("(") is None:
            return lambda env: node(env)[name]
        if self._take(")"):
            return lambda env: METHODS[name](node(env))
        variable = self._tokens.pop(0)
        self._expect(",")
        body = self._binary(0)
        self._expect(")")
        return lambda env: MACROS[name]([body({**env, variable: item}) for item in node(env)])

    def _primary(self) -> Node:
        token = self._tokens.pop(0)
        if token == "(":
            node = self._binary(0)
            self._expect(")")
            return node
        if token == "[":
            return self._list()
        if token in ("has", "size"):
            return self._call(token)
        return _constant(token)

    def _list(self) -> Node:
        items = [self._binary(0)]
        while self._take(","):
            items.append(self._binary(0))
        self._expect("]")
        return lambda env: [item(env) for item in items]

    def _call(self, name: str) -> Node:
        self._expect("(")
        inner = self._binary(0)
        self._expect(")")
        return (lambda env: len(inner(env))) if name == "size" else (lambda env: _has(inner, env))


def _tokens(text: str) -> list[str]:
    found, at = [], 0
    while at < len(text.rstrip()):
        match = TOKEN.match(text, at)
        if match is None:
            raise SyntaxError(f"{text[at:]!r}")
        found.append(match[0].strip())
        at = match.end()
    return found


def _joined(sign: str, how: Callable[[Any, Any], Any], left: Node, right: Node) -> Node:
    if sign == "||":
        return lambda env: left(env) or right(env)
    if sign == "&&":
        return lambda env: left(env) and right(env)
    return lambda env: how(left(env), right(env))


def _has(inner: Node, env: Env) -> bool:
    try:
        inner(env)
    except KeyError:
        return False
    return True


def _constant(token: str) -> Node:
    if token[0] == "'":
        return lambda env: token[1:-1]
    if token[0].isdigit():
        value = float(token)
        return lambda env: value
    if token in ("true", "false"):
        return lambda env: token == "true"
    return lambda env: env[token]


def holds(rule: str, value: Any) -> bool:
    """Return whether a rule of x-kubernetes-validations holds for `self`."""
    return bool(Parser(rule).parse()({"self": value}))
