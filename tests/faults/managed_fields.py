"""Who owns which field: sets of paths, how writes move them, and what a server-side apply makes of an object.

A path is a tuple of elements as they stand in FieldsV1: `f:name`, `k:{"name":"a"}` (item of a list with keys),
`v:"x"` (item of a set). The rules are those of sigs.k8s.io/structured-merge-diff (merge/update.go, typed/compare.go).
"""

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

Path = tuple[str, ...]
Fields = frozenset[Path]
Object = dict[str, Any]
MISSING: Any = object()
NOTHING: Fields = frozenset()

STRIPPED = frozenset(
    [("f:apiVersion",), ("f:kind",), ("f:metadata",)]
    + [
        ("f:metadata", f"f:{name}")
        for name in (
            *("name", "namespace", "uid", "generation", "resourceVersion", "managedFields"),
            *("creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"),
        )
    ]
)
"""Fields nobody owns."""


class Manager(NamedTuple):
    """Who wrote, and how."""

    name: str
    operation: str
    api_version: str
    subresource: str = ""


Managers = dict[Manager, Fields]


@dataclass(frozen=True)
class Shape:
    """How a kind's lists and maps merge; what is not named is granular if a map, and one value if a list."""

    keyed: Mapping[Path, tuple[str, ...]]
    """Lists whose items are told apart by these fields."""
    sets: frozenset[Path] = frozenset({("f:metadata", "f:finalizers")})
    whole: frozenset[Path] = frozenset()
    """Maps that are one value."""

    def element(self, path: Path, item: Any) -> str | None:
        """Return the path element of a list's item, None when the list is one value."""
        place = tuple(part for part in path if part.startswith("f:"))
        if place in self.sets:
            return f"v:{json.dumps(item)}"
        keys = self.keyed.get(place)
        if keys is None:
            return None
        named = {key: item[key] for key in sorted(keys) if key in item}
        return "k:" + json.dumps(named, separators=(",", ":"))

    def is_whole(self, path: Path) -> bool:
        return tuple(part for part in path if part.startswith("f:")) in self.whole


class Changes(NamedTuple):
    """What differs between two objects."""

    added: Fields
    modified: Fields
    removed: Fields


def children(value: Any, path: Path, shape: Shape) -> dict[str, Any] | None:
    """Return what a map or a list with keys holds by path element; None for anything that is one value."""
    if isinstance(value, dict):
        return None if shape.is_whole(path) else {f"f:{name}": held for name, held in value.items()}
    if isinstance(value, list) and shape.element(path, value[0] if value else {}) is not None:
        return {str(shape.element(path, item)): item for item in value}
    return None


def of_applied(obj: Object, shape: Shape) -> Fields:
    """Return the fields an applied object names."""

    def walk(value: Any, path: Path) -> Iterator[Path]:
        held = children(value, path, shape)
        if not held:
            yield path
            return
        for element, child in held.items():
            yield from walk(child, (*path, element))
            if not element.startswith("f:"):
                yield (*path, element)

    return frozenset(walk(obj, ())) - STRIPPED


def compare(old: Any, new: Any, shape: Shape) -> Changes:
    """Return the fields that differ; a map or item that came or went is a field itself."""
    found: tuple[set[Path], set[Path], set[Path]] = (set(), set(), set())

    def walk(left: Any, right: Any, path: Path) -> None:
        lefts = {} if left is MISSING else children(left, path, shape)
        rights = {} if right is MISSING else children(right, path, shape)
        if lefts is None or rights is None or not (lefts or rights):
            if left != right:
                found[_kind(left, right)].add(path)
            return
        for element in {**lefts, **rights}:
            walk(lefts.get(element, MISSING), rights.get(element, MISSING), (*path, element))
        if left is MISSING or right is MISSING:
            found[_kind(left, right)].add(path)

    walk(old, new, ())
    added, modified, removed = (frozenset(paths) - STRIPPED for paths in found)
    return Changes(added, modified, removed)


def _kind(left: Any, right: Any) -> int:
    return 0 if left is MISSING else 2 if right is MISSING else 1


def after_update(managers: Managers, writer: Manager, changes: Changes) -> Managers:
    """Return the owners after a write that is no apply: the writer owns what it changed, alone."""
    taken = changes.added | changes.modified | changes.removed
    kept = {m: fields - taken if m != writer else fields for m, fields in managers.items()}
    own = (kept.get(writer, NOTHING) | changes.added | changes.modified) - changes.removed
    return {m: fields for m, fields in {**kept, writer: own}.items() if fields}


class Applied(NamedTuple):
    """What an apply leads to."""

    obj: Object
    managers: Managers
    conflicts: dict[Manager, Fields]


def apply(live: Object, config: Object, managers: Managers, writer: Manager, shape: Shape) -> Applied:
    """Return the object with `config` merged in, and what `writer` no longer names taken out unless others own it."""
    named, last = of_applied(config, shape), managers.get(writer, NOTHING)
    owned = {**managers, writer: named}
    merged = merge(copy.deepcopy(live), config, (), shape)
    held = {path[:n] for fields in owned.values() for path in fields for n in range(1, len(path) + 1)}
    for path in sorted(last - named, key=len):
        _prune(merged, path, held, shape)
    changes = compare(live, merged, shape)
    changed = changes.added | changes.modified
    conflicts = {m: fields & changed for m, fields in owned.items() if m != writer and fields & changed}
    gone = {m: fields if m == writer else fields - changed - changes.removed for m, fields in owned.items()}
    return Applied(merged, {m: fields for m, fields in gone.items() if fields}, conflicts)


def merge(live: Any, wanted: Any, path: Path, shape: Shape) -> Any:
    """Return `live` with all that `wanted` says."""
    if isinstance(wanted, dict) and isinstance(live, dict) and not shape.is_whole(path):
        for name, value in wanted.items():
            live[name] = merge(live[name], value, (*path, f"f:{name}"), shape) if name in live else value
        return live
    ours, theirs = children(wanted, path, shape), children(live, path, shape)
    if isinstance(wanted, list) and ours is not None and theirs is not None:
        joined = {e: merge(theirs[e], v, (*path, e), shape) if e in theirs else v for e, v in ours.items()}
        return [joined.get(e, theirs.get(e)) for e in _order(list(theirs), list(ours))]
    return wanted


def _order(live: list[str], wanted: list[str]) -> list[str]:
    """Return the order of a merged list: that of `wanted`, what it does not name where it stood in `live`."""
    found: list[str] = []
    for element in wanted:
        while live and (live[0] not in wanted or live[0] in found):
            first = live.pop(0)
            found += [first] if first not in found else []
        found.append(element)
    return [*found, *(e for e in live if e not in wanted)]


def _prune(obj: Object, path: Path, held: set[Path], shape: Shape) -> None:
    """Remove a field, and what it leaves empty, as far as nobody owns it."""
    for length in range(len(path), 0, -1):
        here = path[:length]
        if here in held or (length < len(path) and _at(obj, here, shape) not in ({}, [])):
            return
        _remove(obj, here, shape)


def _at(obj: Any, path: Path, shape: Shape) -> Any:
    for n, element in enumerate(path):
        obj = (children(obj, path[:n], shape) or {}).get(element, MISSING)
    return obj


def _remove(obj: Object, path: Path, shape: Shape) -> None:
    parent, element = _at(obj, path[:-1], shape), path[-1]
    if isinstance(parent, dict):
        parent.pop(element.removeprefix("f:"), None)
    elif isinstance(parent, list):
        parent[:] = [item for item in parent if shape.element(path[:-1], item) != element]


def to_wire(managers: Managers, time: str) -> list[Object]:
    """Return metadata.managedFields."""
    return [_entry(manager, fields, time) for manager, fields in sorted(managers.items())]


def _entry(manager: Manager, fields: Fields, time: str) -> Object:
    tree: Object = {}
    for path in sorted(fields, key=len):
        node = tree
        for element in path:
            node = node.setdefault(element, {})
    for path in fields:
        node = tree
        for element in path:
            node = node[element]
        if node:
            node["."] = {}
    entry = {
        "manager": manager.name,
        "operation": manager.operation,
        "apiVersion": manager.api_version,
        "time": time,
        "fieldsType": "FieldsV1",
        "fieldsV1": tree,
    }
    return {**entry, "subresource": manager.subresource} if manager.subresource else entry


def of_conflicts(conflicts: Mapping[Manager, Fields]) -> list[str]:
    """Return the conflicts as people read them."""
    return sorted(f"{m.name}: {'.'.join(path)}" for m, fields in conflicts.items() for path in fields)
