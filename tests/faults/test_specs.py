"""Thousands of specs: every field of both resources set to what it may be and what it may not, changed, and put back.

Each is refused by the CRD's schema and rules (as the API server would, before the operator sees it), or the operator
looks at it: it goes on, or it says in a condition which field holds what, and what to do, and asks for no accelerator.
Put back, the resource gets on as if nothing had been.
"""

import functools
import random
from collections.abc import Iterator
from typing import Any

import pytest
import structural
from admission import CUSTOM
from world import NAMESPACE, World, deployment_inspected, finetunejob, inspected, modeldeployment

from anneal_operator.cluster.errors import ApiError

MODEL = {"uri": f"pvc://store/anneal/{NAMESPACE}/model/{'4' * 64}"}
MADE = {
    "FineTuneJob": lambda: finetunejob(),
    "ModelDeployment": lambda: modeldeployment(model=dict(MODEL)),
}
NAMES = {"FineTuneJob": "tune", "ModelDeployment": "serve"}
COUNT = 2200
BAD: list[Any] = [
    None,
    "",
    " ",
    "x" * 20_000,
    -1,
    0,
    10**12,
    0.5,
    True,
    [],
    {},
    ["x"],
    {"x": "y"},
    "ftp://x",
    "h100",
]
GOOD = {
    "string": ["a", "pvc://data/b.jsonl", "s3://bucket/b", "a100-80g", "tiny", "a"],
    "integer": [1, 2, 16, 64, 4096],
    "number": [0.01, 0.5, 1.0, 8],
    "boolean": [True, False],
}
JUDGED = ("Inspected", "PlanReady", "Adopted")
"""Conditions that judge a spec."""
Path = tuple[str, ...]
Case = tuple[str, Path, Any]


def leaves(rules: structural.Schema, path: Path = ()) -> Iterator[tuple[Path, structural.Schema]]:
    """Yield every field of a schema."""
    for name, rule in rules.get("properties", {}).items():
        yield (*path, name), rule
        yield from leaves(rule, (*path, name))


def allowed(rule: structural.Schema) -> list[Any]:
    """Return values a field may have, as far as its own rules say."""
    values = [*rule.get("enum", GOOD.get(rule.get("type", ""), []))]
    return [*values, *(rule[name] for name in ("minimum", "maximum", "default") if name in rule)]


def too_many(path: Path, value: Any) -> bool:
    """Whether this many pods are more than the nodes these tests play."""
    return path[-1] in ("nodes", "minNodes") and isinstance(value, int) and 4 < value < 10**12


@functools.cache
def cases() -> list[Case]:
    """Return the generated changes: each field with each value, then pairs until there are enough."""
    found: list[Case] = []
    for kind, plural in CUSTOM.items():
        rules = structural.schema(plural)["properties"]["spec"]
        for path, rule in leaves(rules):
            found += [(kind, path, value) for value in [*allowed(rule), *BAD] if not too_many(path, value)]
    return random.Random(5).sample(found, COUNT)


def changed(kind: str, path: Path, value: Any) -> dict[str, Any]:
    """Return the resource with one field changed; None takes the field away."""
    obj = MADE[kind]()
    node = obj["spec"]
    for name in path[:-1]:
        node = node.setdefault(name, {})
    if value is None:
        node.pop(path[-1], None)
    else:
        node[path[-1]] = value
    return obj


def begun(kind: str) -> World:
    world = World()
    world.player.default["inspect"] = inspected() if kind == "FineTuneJob" else deployment_inspected()
    return world


def refusals(world: World, kind: str) -> list[str]:
    """Return the messages of conditions that say that the spec cannot be followed."""
    held = world.resource(kind, NAMES[kind]).get("status", {}).get("conditions", [])
    judged = [c for c in held if c["type"] in JUDGED and c["status"] == "False"]
    return [c["message"] for c in judged if c["reason"] != "Inspecting"]


def accelerated(world: World) -> list[str]:
    """Return the Jobs and Deployments that ask for an accelerator."""
    return [
        obj["metadata"]["name"]
        for (kind, _, _), obj in world.server.objects.items()
        if kind in ("Job", "Deployment") and "nvidia.com/gpu" in str(obj["spec"])
    ]


def outcome(kind: str, path: Path, value: Any) -> str:
    """Return what became of a changed spec: schema, refused or followed; raises when it is none of them."""
    world = begun(kind)
    try:
        world.server.put(changed(kind, path, value))
    except ApiError as error:
        if error.status != 422:
            raise
        return "schema"
    world.run(kind, NAMES[kind], 5)
    told = refusals(world, kind)
    if not told:
        suspended = world.conditions(kind, NAMES[kind]).get("Suspended", ("", ""))[0] == "True"
        assert world.jobs() or suspended, "neither followed nor refused"
        return "followed"
    assert not accelerated(world), accelerated(world)
    assert all("spec." in text or "metadata.name" in text for text in told), told
    world.server.put(MADE[kind]())
    world.run(kind, NAMES[kind], 12)
    assert not refusals(world, kind), refusals(world, kind)
    assert [j for j in world.jobs() if "inspect" in j["metadata"]["name"]], "not recovered"
    return "refused"


def handled(found: list[Case]) -> dict[str, int]:
    """Return how many specs ended in which way; fails with all that ended in none."""
    counts: dict[str, int] = {}
    wrong = []
    for kind, path, value in found:
        try:
            how = outcome(kind, path, value)
        except Exception as error:
            wrong.append(f"{kind} {'.'.join(path)} = {str(value)[:60]!r}: {error!r}"[:400])
            continue
        counts[how] = counts.get(how, 0) + 1
    assert wrong == []
    return counts


def test_a_sample_of_specs_is_handled() -> None:
    assert sum(handled(cases()[::30]).values()) == len(cases()[::30])


@pytest.mark.slow
def test_every_spec_is_handled() -> None:
    counts = handled(cases())
    assert sum(counts.values()) == COUNT
    assert min(counts[how] for how in ("schema", "refused", "followed")) >= 10
