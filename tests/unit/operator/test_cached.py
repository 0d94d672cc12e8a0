"""Resources and children from memory: as new as the newest that was told, whole after a list, and stripped."""

from typing import Any

import pytest
from api_server import ApiServer, copied
from world import finetunejob

from anneal_operator.cluster.cached import CachedCluster
from anneal_operator.cluster.errors import Conflict

LABEL = "anneal.dev/finetunejob"
SELECTOR = f"{LABEL}=tune"
JOBS = ("Job", None)


class Counting(ApiServer):
    """Counts lists."""

    lists = 0

    def select(self, kind: str, namespace: str | None, selector: str = "", fields: str = "") -> list[Any]:
        self.lists += 1
        return super().select(kind, namespace, selector, fields)


def job(
    name: str = "j", version: int = 5, uid: str = "u", owner: str = "tune", **status: object
) -> dict[str, Any]:
    meta = {
        "name": name,
        "namespace": "team",
        "uid": uid,
        "resourceVersion": str(version),
        "labels": {LABEL: owner},
        "managedFields": [{"manager": "anneal"}],
    }
    spec = {"completions": 1, "template": {"spec": {}}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec, "status": status}


@pytest.fixture
def server() -> Counting:
    return Counting()


@pytest.fixture
def cache(server: Counting) -> CachedCluster:
    return CachedCluster(server, [LABEL])


def names(cache: CachedCluster, namespace: str = "team", selector: str = SELECTOR) -> list[str]:
    return sorted(obj["metadata"]["name"] for obj in cache.select("Job", namespace, selector))


def test_until_the_list_is_complete_the_server_is_asked(server: Counting, cache: CachedCluster) -> None:
    cache.hear(JOBS, None, job())
    assert names(cache) == []
    cache.listed(JOBS)
    assert names(cache) == ["j"]
    assert server.lists == 1


def test_what_memory_cannot_tell_the_server_is_asked(server: Counting, cache: CachedCluster) -> None:
    cache.listed(("Job", "team"))
    cache.select("Job", "other", SELECTOR)
    cache.select("Pod", "team", SELECTOR)
    cache.select("Job", "team", "a=b")
    cache.select("Job", "team", SELECTOR, "metadata.name=j")
    assert server.lists == 4
    assert names(cache) == []
    assert server.lists == 4


def test_of_two_versions_the_newer_stays(cache: CachedCluster) -> None:
    cache.listed(JOBS)
    cache.hear(JOBS, "MODIFIED", job(version=10, active=1))
    cache.hear(JOBS, "MODIFIED", job(version=9, active=0))
    (held,) = cache.select("Job", "team", SELECTOR)
    assert held["status"] == {"active": 1}


def test_the_end_of_a_predecessor_does_not_end_its_namesake(cache: CachedCluster) -> None:
    cache.listed(JOBS)
    cache.hear(JOBS, "ADDED", job(version=10, uid="new"))
    cache.hear(JOBS, "DELETED", job(version=9, uid="old"))
    assert names(cache) == ["j"]
    cache.hear(JOBS, "DELETED", job(version=11, uid="new"))
    assert names(cache) == []


def test_what_a_later_list_does_not_show_is_gone(cache: CachedCluster) -> None:
    for name in ("a", "b"):
        cache.hear(JOBS, None, job(name, uid=name))
    cache.listed(JOBS)
    cache.hear(JOBS, None, job("b", version=7, uid="b"))
    cache.listed(JOBS)
    assert names(cache) == ["b"]


def test_a_list_of_one_namespace_says_nothing_about_another(cache: CachedCluster) -> None:
    elsewhere = job("a", uid="a")
    elsewhere["metadata"]["namespace"] = "other"
    cache.hear(("Job", "other"), None, elsewhere)
    cache.listed(("Job", "other"))
    for _ in range(2):
        cache.listed(("Job", "team"))
    assert names(cache, "other") == ["a"]


def test_our_own_write_is_known_at_once(server: Counting, cache: CachedCluster) -> None:
    cache.listed(JOBS)
    made = job()
    for name in ("uid", "resourceVersion", "managedFields"):
        del made["metadata"][name]
    cache.create(made)
    assert names(cache) == ["j"]


def test_only_what_is_decided_by_is_kept(cache: CachedCluster) -> None:
    cache.listed(JOBS)
    cache.hear(JOBS, "ADDED", job())
    (held,) = cache.select("Job", "team", SELECTOR)
    assert held["spec"] == {"completions": 1}
    assert "managedFields" not in held["metadata"]
    pod = {**job(), "kind": "Pod", "spec": {"nodeName": "n", "containers": []}}
    cache.listed(("Pod", None))
    cache.hear(("Pod", None), "ADDED", pod)
    assert cache.select("Pod", "team", SELECTOR)[0]["spec"] == {"nodeName": "n"}


def test_a_child_that_lost_its_label_or_got_another_has_changed_hands(cache: CachedCluster) -> None:
    cache.listed(JOBS)
    cache.hear(JOBS, "ADDED", job())
    cache.hear(JOBS, "MODIFIED", job(version=6, owner="other"))
    assert (names(cache), names(cache, selector=f"{LABEL}=other")) == ([], ["j"])
    bare = job(version=7)
    bare["metadata"]["labels"] = {}
    cache.hear(JOBS, "MODIFIED", bare)
    assert names(cache, selector=f"{LABEL}=other") == []


TUNE = ("FineTuneJob", "team", "tune")


def tune(server: Counting, **status: object) -> dict[str, Any]:
    """Return a FineTuneJob that the server has, as it is now."""
    if server.get(*TUNE) is None:
        server.put(finetunejob())
    server.set_status(*TUNE, {"phase": "Training", **status})
    return server.objects[TUNE]


def heard(cache: CachedCluster, obj: dict[str, Any], type_: str = "MODIFIED") -> None:
    cache.hear(("FineTuneJob", None), type_, copied(obj))


@pytest.fixture
def asked(server: Counting, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names that were read live."""
    read, real = [], server.get

    def get(kind: str, namespace: str, name: str) -> Any:
        read.append(name)
        return real(kind, namespace, name)

    monkeypatch.setattr(server, "get", get)
    return read


def test_a_resource_that_was_heard_of_is_not_read(server: Counting, cache: CachedCluster) -> None:
    old = copied(tune(server))
    heard(cache, old)
    tune(server, restarts=1)
    held = cache.recall(*TUNE)
    assert held is not None
    assert held["metadata"]["resourceVersion"] == old["metadata"]["resourceVersion"]
    assert cache.recall("FineTuneJob", "team", "other") is None


def test_a_finished_resource_costs_no_memory_and_is_read(
    server: Counting, cache: CachedCluster, asked: list[str]
) -> None:
    early = copied(tune(server))
    heard(cache, tune(server, phase="Complete"))
    heard(cache, early)  # late
    asked.clear()
    assert cache.recall(*TUNE) == server.objects[TUNE]
    assert asked == ["tune"]


def test_what_we_wrote_ourselves_is_known_at_once(
    server: Counting, cache: CachedCluster, asked: list[str]
) -> None:
    heard(cache, tune(server))
    read = cache.recall(*TUNE)
    assert read is not None
    cache.update_status({**read, "status": {"phase": "Training", "restarts": 1}})
    asked.clear()
    assert (cache.recall(*TUNE) or {})["status"]["restarts"] == 1
    assert asked == []


def test_memory_that_has_proved_old_is_not_believed(server: Counting, cache: CachedCluster) -> None:
    heard(cache, tune(server))
    read = cache.recall(*TUNE)
    assert read is not None
    tune(server, restarts=2)
    with pytest.raises(Conflict):
        cache.update_status({**read, "status": {}})
    assert (cache.recall(*TUNE) or {})["status"]["restarts"] == 2


def test_a_resource_that_has_gone_does_not_come_back_with_our_own_write(
    server: Counting, cache: CachedCluster
) -> None:
    obj = copied(tune(server))
    heard(cache, obj)
    heard(cache, obj, "DELETED")
    cache.update_status({**obj, "status": {"phase": "Training", "restarts": 1}})  # was under way
    server.remove(*TUNE)
    assert cache.recall(*TUNE) is None


def test_a_resource_that_a_later_list_does_not_show_is_gone(server: Counting, cache: CachedCluster) -> None:
    heard(cache, tune(server))
    server.remove(*TUNE)
    cache.listed(("FineTuneJob", None))
    assert cache.recall(*TUNE) is None
