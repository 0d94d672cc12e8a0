"""Small changes of a source in the places of its syntax tree, so that its layout stays."""

import ast
import itertools
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Edit:
    """Bytes `begin` to `end` of a source in UTF-8 become `text`."""

    begin: int
    end: int
    text: str


@dataclass(frozen=True)
class Places:
    """Turns the places of syntax nodes, lines and columns in bytes, into offsets in bytes."""

    source: bytes
    starts: tuple[int, ...]

    @classmethod
    def of(cls, source: str) -> "Places":
        """Return the places of a source."""
        raw = source.encode()
        return cls(raw, tuple(itertools.accumulate((len(line) for line in raw.splitlines(True)), initial=0)))

    def begin(self, node: ast.expr | ast.stmt) -> int:
        """Return where a node begins."""
        return self.starts[node.lineno - 1] + node.col_offset

    def end(self, node: ast.expr | ast.stmt) -> int:
        """Return where it ends."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.starts[node.end_lineno - 1] + node.end_col_offset

    def between(self, left: ast.expr, right: ast.expr) -> str:
        """Return what stands between two nodes."""
        return self.source[self.end(left) : self.begin(right)].decode()


def applied(source: str, edits: Iterable[Edit]) -> str:
    """Return a source with edits that do not overlap."""
    raw, end = source.encode(), 0
    parts: list[bytes] = []
    for edit in sorted(edits):
        parts += [raw[end : edit.begin], edit.text.encode()]
        end = edit.end
    return b"".join([*parts, raw[end:]]).decode()
