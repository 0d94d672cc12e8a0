"""What the API server leaves to win: a client that knows every answer beforehand, in place of the operator.

It lets an object go on and writes the training Job, the Service and one status that the operator has made of it in an
earlier round, without a read, a watch or a thought. No controller of such objects is faster on the same server.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from operator_scale import ours, plane, round
from operator_scale.audit import NAME_LENGTH
from operator_scale.plane import Object, Plane
from operator_scale.round import Round

JOBS, SERVICES = (
    f"/apis/batch/v1/namespaces/{ours.NAMESPACE}/jobs",
    f"/api/v1/namespaces/{ours.NAMESPACE}/services",
)
GIVEN = {"uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"}
"""What the API server gives an object."""
Answers = dict[str, list[tuple[str, Object]]]
"""By FineTuneJob, the children to create, each with the collection it belongs to."""


async def answers(place: Plane) -> Answers:
    """Return what the operator has made, as it would be written again."""
    found: Answers = defaultdict(list)
    for collection in (SERVICES, JOBS):
        for made in (await place.ask("GET", collection))["items"]:
            found[made["metadata"]["name"][:NAME_LENGTH]].append((collection, again(made)))
    return found


def again(made: Object) -> Object:
    """Return an object without what the API server has given it: a Job's selector and its labels too."""
    fresh = {key: value for key, value in made.items() if key != "status"}
    fresh["metadata"] = without(made["metadata"], GIVEN)
    if "template" in (spec := dict(made["spec"])):
        spec.pop("selector")
        template = spec["template"]
        meta = template["metadata"]
        own = {key for key in meta["labels"] if key.endswith(("controller-uid", "job-name"))}
        spec["template"] = {**template, "metadata": {**meta, "labels": without(meta["labels"], own)}}
        fresh["metadata"]["labels"] = without(fresh["metadata"]["labels"], own)
        fresh["spec"] = spec
    return fresh


def without(fields: Object, left_out: Iterable[str]) -> Object:
    """Return a mapping without some keys."""
    return {key: value for key, value in fields.items() if key not in left_out}


async def run(data: Path, known: Answers, objects: int) -> Round:
    """Let `objects` of the store in `data` loose, with that client for an operator."""

    async def act(place: Plane, obj: Object) -> None:
        await ours.release(place, obj)
        name = obj["metadata"]["name"]
        for collection, child in known[name]:
            await place.ask("POST", collection, child)
        said = {"status": {"phase": "Training"}}
        await place.ask("PATCH", f"{ours.COLLECTION}/{name}/status", said, "application/merge-patch+json")

    async with plane.plane(data) as place:
        return await round.run(place, ["driver"], act, [ours.resource(number) for number in range(objects)])
