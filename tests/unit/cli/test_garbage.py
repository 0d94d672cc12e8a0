"""Only what nothing refers to goes."""

from objects import UID, job, plan_map, told

from anneal_cli.garbage import Garbage, garbage, text
from anneal_cli.lineage import read

GONE = "99999999-0000-0000-0000-000000000000"
KEY = "k" * 64


def test_what_a_living_resource_made_stays_and_the_rest_goes() -> None:
    own, stale = told("adapter", "own"), told("adapter", "stale", uid=GONE)
    runs = ["pvc://store/artifacts/demo/runs/tune-01234567", "pvc://store/artifacts/demo/runs/old-99999999"]
    got = garbage(read([own, stale]), runs, [job()])
    assert got == Garbage([stale["uri"]], [runs[1]], 2**20)
    assert "1.0 MiB" in text(got, removed=False)
    assert "--yes" in text(got, removed=False)
    assert text(got, removed=True).endswith(": removed")


def test_what_is_named_stays_with_all_it_was_made_from() -> None:
    data = told("dataset", "data", uid=GONE)
    model = told("model", "model", uid=GONE, dataset=data["digest"])
    for name in (model["uri"] + "/", model["digest"]):
        user = {"metadata": {"uid": "m"}, "spec": {"model": {"uri": name}}}
        assert garbage(read([data, model]), [], [user]).uris == []
    assert len(garbage(read([data, model]), [], [job()]).uris) == 2


def test_a_key_in_a_plan_keeps_its_artifact() -> None:
    kept = told("adapter", KEY, uid=GONE)
    planned = plan_map()
    planned["data"]["run.json"] = f'{{"inspection":{{"keys":{{"train":"{KEY}"}}}}}}'
    assert garbage(read([kept]), [], [planned]).uris == []
    assert garbage(read([kept]), [], []).uris == [kept["uri"]]


def test_text_that_only_looks_like_json_is_no_error() -> None:
    broken = {"metadata": {"uid": UID}, "data": {"x": "{not json"}}
    assert garbage([], [], [broken]).uris == []


def test_what_nobody_made_was_put_there_by_hand() -> None:
    imported = told("base-model", "base", uid="")
    assert text(garbage(read([imported]), [], []), removed=False) == "nothing to remove"
