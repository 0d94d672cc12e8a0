"""Every field of both resources does something: code outside of the types reads it, and nothing says it is still to come.

Reads are found in the syntax trees, with as much of types as that takes: a parameter or an attribute that is annotated
with a class of the spec is of it, and so is what is reached from it, assigned or iterated over.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from anneal_api.finetunejob import FineTuneJobSpec
from anneal_api.modeldeployment import ModelDeploymentSpec

ROOT = Path(__file__).parents[3]
READERS = ("operator", "trainers", "serving", "runtime", "evaluation")
IMPLIED = {"Split.test": "what train and validation leave of a hundred: the CRD's rule holds the sum"}
"""Fields that no code reads, and why they mean something all the same."""
TO_COME = re.compile(
    r"not (yet )?(been )?(implemented|supported yet)|not available yet|later (release|version)", re.I
)

Class = type[BaseModel]
Names = dict[str, set[Class]]


def classes_in(annotation: Any) -> Iterator[Class]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from classes_in(inner)


def fields_of(*roots: Class) -> dict[tuple[Class, str], set[Class]]:
    """Return each field of these classes and of those within them, with the classes of its value."""
    found: dict[tuple[Class, str], set[Class]] = {}
    waiting = list(roots)
    while waiting:
        model = waiting.pop()
        for name, field in model.model_fields.items():
            if (model, name) not in found:
                found[model, name] = set(classes_in(field.annotation))
                waiting += found[model, name]
    return found


FIELDS = fields_of(FineTuneJobSpec, ModelDeploymentSpec)
CLASSES = {model.__name__: model for model, _ in FIELDS}


@cache
def trees() -> list[ast.Module]:
    files = [file for folder in READERS for file in (ROOT / folder / "src").rglob("*.py")]
    return [ast.parse(file.read_text()) for file in files]


class Reads(ast.NodeVisitor):
    """The fields that a module reads; it is visited twice, as a name may be used above the line that explains it."""

    def __init__(self, attributes: Names) -> None:
        self.found: set[tuple[Class, str]] = set()
        self._attributes = attributes
        self._names: Names = defaultdict(set)
        self._imported = dict(CLASSES)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        ours = (node.module or "").startswith("anneal_api")
        self._imported |= {
            each.asname or each.name: CLASSES[each.name]
            for each in node.names
            if ours and each.name in CLASSES
        }

    def visit_arg(self, node: ast.arg) -> None:
        self._names[node.arg] |= annotated(node.annotation, self._imported)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            pairs = zip(
                *(n.elts if isinstance(n, ast.Tuple) else [n] for n in (target, node.value)), strict=False
            )
            for name, value in pairs:
                self._bind(name, value)
        self.generic_visit(node)

    def visit_For(self, node: ast.For | ast.comprehension) -> None:
        self._bind(node.target, node.iter)
        self.generic_visit(node)

    visit_comprehension = visit_For

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self._bind(node.target, node.value)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.type_of(node)
        self.generic_visit(node)

    def _bind(self, target: ast.expr, value: ast.expr) -> None:
        for name in ast.walk(target):
            if isinstance(name, ast.Name):
                self._names[name.id] |= self.type_of(value)

    def type_of(self, node: ast.expr) -> set[Class]:
        """Return the classes of the spec that a value may be of; its fields that are read on the way are noted."""
        match node:
            case ast.Name(name):
                return self._names[name]
            case ast.Attribute(value, name):
                read = {(owner, name) for owner in self.type_of(value) if (owner, name) in FIELDS}
                self.found |= read
                return set().union(*(FIELDS[each] for each in read)) or self._attributes[name]
            case ast.BoolOp(values=parts) | ast.Call(func=ast.Name(), args=parts):
                return set().union(*map(self.type_of, parts))
            case ast.Subscript(value) | ast.Starred(value):
                return self.type_of(value)
        return set()


def annotated(annotation: ast.expr | None, known: dict[str, Class]) -> set[Class]:
    names = (getattr(each, "id", getattr(each, "attr", "")) for each in ast.walk(annotation or ast.Pass()))
    return {known[name] for name in names if name in known}


def attributes() -> Names:
    """Return the attributes that are annotated with a class of the spec, in the runs' configurations and in the readers."""
    found: Names = defaultdict(set)
    runs = ast.parse((ROOT / "api" / "src" / "anneal_api" / "runs.py").read_text())
    for node in (node for tree in [runs, *trees()] for node in ast.walk(tree)):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] |= annotated(node.annotation, CLASSES)
    return found


def read_in(modules: list[ast.Module], known: Names) -> set[tuple[Class, str]]:
    found = set()
    for tree in modules:
        reads = Reads(known)
        reads.visit(tree)
        reads.visit(tree)
        found |= reads.found
    return found


def test_every_field_is_read_by_those_who_carry_the_spec_out() -> None:
    unread = FIELDS.keys() - read_in(trees(), attributes())
    assert {f"{model.__name__}.{name}" for model, name in unread} == set(IMPLIED)


@pytest.mark.parametrize(
    ("code", "read"),
    [
        ("def f(spec: FineTuneJobSpec): return spec.adapter.rank", {"adapter", "rank"}),
        ("def f(run): return run.spec.tasks[0].weight", {"tasks", "weight"}),
        ("def f(spec: FineTuneJobSpec): return [t.weight for t in spec.tasks]", {"tasks", "weight"}),
        ("def f(spec: FineTuneJobSpec): task = spec.tasks[0]; return task.weight", {"tasks", "weight"}),
        ("def f(other): return other.rank", set()),
        ("def f(spec: FineTuneJobSpec): return spec.rank", set()),
    ],
)
def test_a_read_is_told_from_an_attribute_of_the_same_name(code: str, read: set[str]) -> None:
    known: Names = defaultdict(set, {"spec": {FineTuneJobSpec}})
    assert {name for _, name in read_in([ast.parse(code)], known)} == read


def test_nothing_is_said_to_come_later() -> None:
    crds = [file.read_text() for file in (ROOT / "manifests" / "crds").glob("*.yaml")]
    texts = [
        node.value
        for tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert [found[0] for text in (*texts, *crds) if (found := TO_COME.search(text))] == []
    raised = {node.id for tree in trees() for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not raised & {"NotImplementedError", "NotImplemented"}
