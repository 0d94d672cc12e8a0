"""The API server in memory against the real one: the same generated operations, the same answers.

Compared after every operation: the status code and reason, the object with its managed fields and generation,
whether its resourceVersion moved, and what a watch since the beginning has shown. Needs only the API server and the
CRDs: `KUBECONFIG=$(python3 -m cluster kubeconfig) pytest tests/cluster/test_api_server_model.py`.
"""

import json
import os
import random
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import config as kubernetes_config
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration

sys.path[:0] = [str(Path(__file__).parents[1] / part) for part in ("faults", "unit/operator")]

import structural  # noqa: E402
from api_server import ApiServer  # noqa: E402

from anneal_api.base import API_VERSION  # noqa: E402
from anneal_operator.cluster import kinds  # noqa: E402
from anneal_operator.cluster.errors import ApiError, api_error  # noqa: E402

pytestmark = pytest.mark.cluster
Json = dict[str, Any]
SEEDS = range(12)
STEPS = 60
MANAGERS = ("anneal", "user", "other")
SPEC = {
    "baseModel": {"uri": "pvc://models/base"},
    "tasks": [{"name": "a", "data": {"uri": "pvc://data/a.jsonl"}}],
    "output": {"uri": "pvc://store/anneal"},
}
OWN = (
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "namespace",
    "managedFields",
    "selfLink",
)


TWIN_GROUP = f"twin-{os.getpid()}.anneal.dev"
TWIN = f"{TWIN_GROUP}/v1alpha1"
"""Group of a copy of the CRD: an operator on the cluster follows the original."""


class Real:
    """The real API server, by the verbs the model has."""

    def __init__(self, namespace: str) -> None:
        configuration = Configuration()
        kubernetes_config.load_kube_config(client_configuration=configuration)
        self._client = ApiClient(configuration)
        self.namespace = namespace

    def call(
        self, method: str, path: str, body: Json | None = None, media: str = "application/json", **query: str
    ) -> Json:
        path = path.replace(API_VERSION, TWIN)
        body = json.loads(json.dumps(body).replace(f'"{API_VERSION}"', f'"{TWIN}"'))
        headers = {"Accept": "application/json", "Content-Type": media}
        request = self._client.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        answer = self._client.call_api(*request, _request_timeout=(5, 30))
        text = answer.read().decode()
        if answer.status >= 300:
            # An unknown path is answered in plain text.
            said = json.loads(text) if text.startswith("{") else {"message": text}
            raise api_error(answer.status, said.get("reason", ""), said.get("message", ""))
        return {"lines": text.splitlines()} if "watch" in query else dict(json.loads(text))

    def path(self, obj: Json, subresource: str | None = None) -> str:
        return kinds.path(obj["kind"], self.namespace, obj["metadata"]["name"], subresource)

    def create(self, obj: Json, manager: str) -> Json:
        return self.call("POST", kinds.path(obj["kind"], self.namespace), obj, fieldManager=manager)

    def apply(self, obj: Json, manager: str, *, force: bool) -> Json:
        media, forced = "application/apply-patch+yaml", str(force).lower()
        return self.call("PATCH", self.path(obj), obj, media, fieldManager=manager, force=forced)

    def replace(self, obj: Json, manager: str) -> Json:
        return self.call("PUT", self.path(obj), obj, fieldManager=manager)

    def update_status(self, obj: Json, manager: str) -> Json:
        return self.call("PUT", self.path(obj, "status"), obj, fieldManager=manager)

    def patch(self, obj: Json, body: Json, manager: str) -> Json:
        return self.call("PATCH", self.path(obj), body, "application/merge-patch+json", fieldManager=manager)

    def delete(self, obj: Json, uid: str) -> None:
        guard = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        self.call("DELETE", self.path(obj), guard)

    def get(self, obj: Json) -> Json | None:
        try:
            return self.call("GET", self.path(obj))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def watch(self, kind: str, since: str) -> list[Json]:
        query = {
            "watch": "true",
            "resourceVersion": since,
            "timeoutSeconds": "2",
            "allowWatchBookmarks": "true",
        }
        events = [
            json.loads(line)
            for line in self.call("GET", kinds.path(kind, self.namespace), None, **query)["lines"]
        ]
        for event in events:
            if event["type"] == "ERROR":
                raise api_error(
                    event["object"]["code"], event["object"]["reason"], event["object"]["message"]
                )
        return events


class Modelled:
    """The model, by the same verbs."""

    def __init__(self, namespace: str) -> None:
        self.server = ApiServer()
        self.server.version = 1000  # so that "1" is an old version here too
        self.namespace = namespace

    def _key(self, obj: Json) -> tuple[str, str, str]:
        return obj["kind"], self.namespace, obj["metadata"]["name"]

    def _with_fields(self, obj: Json) -> Json:
        key = self._key(obj)
        fields = self.server.managed_fields(key) if key in self.server.objects else []
        return {**obj, "metadata": {**obj["metadata"], "managedFields": fields}}

    def create(self, obj: Json, manager: str) -> Json:
        return self._with_fields(self.server.create(obj, manager))

    def apply(self, obj: Json, manager: str, *, force: bool) -> Json:
        return self._with_fields(self.server.apply(obj, manager, force=force))

    def replace(self, obj: Json, manager: str) -> Json:
        return self._with_fields(self.server.replace(obj, manager))

    def update_status(self, obj: Json, manager: str) -> Json:
        return self._with_fields(self.server.update_status(obj, manager))

    def patch(self, obj: Json, body: Json, manager: str) -> Json:
        return self._with_fields(self.server.patch(self._key(obj), body, manager))

    def delete(self, obj: Json, uid: str) -> None:
        if self.server.get(*self._key(obj)) is None:
            raise api_error(404, "NotFound", "")
        self.server.delete(*self._key(obj), uid)

    def get(self, obj: Json) -> Json | None:
        found = self.server.get(*self._key(obj))
        return self._with_fields(found) if found else None

    def watch(self, kind: str, since: str) -> list[Json]:
        return self.server.watch(kind, self.namespace, since)


Side = Real | Modelled
Step = Callable[[Side], Json | None]


def base(kind: str, name: str, namespace: str, **fields: Any) -> Json:
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": kinds.KINDS[kind][0], "kind": kind, "metadata": meta, **fields}


class Sequence:
    """Seeded operations; what depends on a server's own answers (UIDs, versions) is read from each side."""

    def __init__(self, seed: int, namespace: str) -> None:
        self._random = random.Random(seed)
        self._namespace = namespace
        self._stale: dict[tuple[int, str], Json] = {}

    def steps(self) -> Iterator[tuple[str, Json, Step]]:
        for _ in range(STEPS):
            kind = self._random.choice(["ConfigMap", "FineTuneJob", "Lease"])
            obj = self._object(kind, self._random.choice(["x", "y"]))
            verbs = [
                "create",
                "apply",
                "apply",
                "replace",
                "stale",
                "patch",
                "finalize",
                "delete",
                "mistaken",
                "invalid",
            ]
            verb = self._random.choice([*verbs, *(["status"] * 3 if kind == "FineTuneJob" else [])])
            manager, force = self._random.choice(MANAGERS), self._random.random() < 0.5
            yield (
                f"{verb} {kind} as {manager}{' by force' if force else ''}",
                obj,
                self._step(verb, obj, manager, force),
            )

    def _object(self, kind: str, name: str) -> Json:
        some = {k: str(self._random.randrange(3)) for k in "abc" if self._random.random() < 0.6}
        obj = base(kind, name, self._namespace)
        if self._random.random() < 0.5:
            obj["metadata"]["labels"] = {f"l-{k}": v for k, v in some.items()} or {"l": "1"}
        if kind == "ConfigMap":
            return {**obj, "data": some or {"d": "1"}}
        if kind == "Lease":
            return {
                **obj,
                "spec": {"holderIdentity": f"h{len(some)}", "leaseDurationSeconds": 10 + len(some)},
            }
        tasks = [{"name": n, "data": {"uri": f"pvc://data/{n}{v}.jsonl"}} for n, v in some.items()] or SPEC[
            "tasks"
        ]
        return {**obj, "spec": {**SPEC, "tasks": tasks, "suspend": len(some) == 1}}

    def _step(self, verb: str, obj: Json, manager: str, force: bool) -> Step:
        finalizers = ["anneal.dev/test"] if self._random.random() < 0.5 else []
        condition = self._condition()

        def live(side: Side) -> Json:
            found = side.get(obj)
            if found is None:
                raise api_error(404, "NotFound", "")
            self._stale.setdefault((id(side), obj["kind"] + obj["metadata"]["name"]), found)
            return {**found, "metadata": {k: v for k, v in found["metadata"].items() if k != "managedFields"}}

        def merged(side: Side) -> Json:
            found = live(side)
            meta = {**found["metadata"], **{k: v for k, v in obj["metadata"].items() if k == "labels"}}
            return {**found, **{k: v for k, v in obj.items() if k in ("data", "spec")}, "metadata": meta}

        def stale(side: Side) -> Json:
            found = live(side)
            old = {**found["metadata"], "resourceVersion": "1"}
            return {**found, "metadata": old}

        invalid = {**obj, "metadata": {**obj["metadata"], "name": "invalid", "labels": {"l": "not a label!"}}}
        actions: dict[str, Step] = {
            "create": lambda side: side.create(obj, manager),
            "apply": lambda side: side.apply(obj, manager, force=force),
            "replace": lambda side: side.replace(merged(side), manager),
            "stale": lambda side: side.replace(stale(side), manager),
            "patch": lambda side: side.patch(obj, {k: obj[k] for k in ("data", "spec") if k in obj}, manager),
            "finalize": lambda side: side.patch(obj, {"metadata": {"finalizers": finalizers}}, manager),
            "delete": lambda side: side.delete(obj, live(side)["metadata"]["uid"]),
            "mistaken": lambda side: side.delete(obj, "00000000-0000-0000-0000-000000000000"),
            "invalid": lambda side: side.create(invalid, manager),
            "status": lambda side: side.update_status({**live(side), "status": condition}, manager),
        }
        return actions[verb]

    def _condition(self) -> Json:
        types = [t for t in ("Inspected", "Training") if self._random.random() < 0.7]
        at = "2026-01-01T00:00:00Z"
        held = [
            {
                "type": t,
                "status": self._random.choice(["True", "False"]),
                "reason": "R",
                "lastTransitionTime": at,
            }
            for t in types
        ]
        return {"phase": self._random.choice(["A", "B"]), "conditions": held}


def shown(obj: Json | None) -> Any:
    """Return an object without what belongs to one server alone."""
    if obj is None:
        return None
    meta = {
        name: value for name, value in obj["metadata"].items() if name not in OWN and value not in ([], {})
    }
    rest = {name: value for name, value in obj.items() if name not in ("metadata", "apiVersion", "kind")}
    entries = obj["metadata"].get("managedFields", [])
    fields = sorted(
        (e["manager"], e["operation"], e.get("subresource", ""), json.dumps(e["fieldsV1"], sort_keys=True))
        for e in entries
    )
    return {"metadata": meta, "fields": fields, "deleting": "deletionTimestamp" in obj["metadata"], **rest}


def result(side: Side, obj: Json, step: Step) -> Any:
    """Return an operation's answer, the object after it, and whether its resourceVersion moved."""
    before = side.get(obj)
    try:
        step(side)
        answer: Any = "ok"
    except ApiError as error:
        answer = (error.status, error.reason)
    after = side.get(obj)
    versions = [o and o["metadata"]["resourceVersion"] for o in (before, after)]
    return {"answer": answer, "object": shown(after), "moved": versions[0] != versions[1]}


@pytest.fixture(scope="module", autouse=True)
def twin() -> Iterator[None]:
    """A copy of the FineTuneJob's CRD that no operator watches."""
    crd = yaml.safe_load((structural.CRDS / "finetunejobs.yaml").read_text())
    crd["metadata"] = {"name": f"finetunejobs.{TWIN_GROUP}"}
    crd["spec"]["group"] = TWIN_GROUP
    crd["spec"]["names"] |= {"shortNames": [], "categories": []}
    real, crds = Real(""), "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    real.call("POST", crds, crd)
    try:
        while not served(real):
            time.sleep(0.2)
        yield
    finally:
        real.call("DELETE", f"{crds}/finetunejobs.{TWIN_GROUP}", {})


def served(real: Real) -> bool:
    try:
        real.call("GET", f"/apis/{API_VERSION}/finetunejobs")
    except ApiError:
        return False
    return True


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"model-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    real = Real(name)
    real.call(
        "POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    )
    try:
        yield name
    finally:
        for kind in ("ConfigMap", "FineTuneJob", "Lease"):
            release(real, kind)
        real.call("DELETE", f"/api/v1/namespaces/{name}", {})


def release(real: Real, kind: str) -> None:
    """Take off the finalizers that a sequence has left: nobody else would."""
    for found in real.call("GET", kinds.path(kind, real.namespace))["items"]:
        if found["metadata"].get("finalizers"):
            bare = base(kind, found["metadata"]["name"], real.namespace)
            real.patch(bare, {"metadata": {"finalizers": None}}, "user")


@pytest.mark.parametrize("seed", SEEDS)
def test_the_model_answers_as_the_real_one(seed: int, namespace: str) -> None:
    real, model = Real(namespace), Modelled(namespace)
    start = real.call("GET", kinds.path("FineTuneJob", namespace))["metadata"]["resourceVersion"]
    for number, (what, obj, step) in enumerate(Sequence(seed, namespace).steps()):
        assert result(model, obj, step) == result(real, obj, step), f"step {number}: {what}: {obj}"
    for kind in ("FineTuneJob", "Lease"):
        seen = [
            (e["type"], e["object"]["metadata"]["name"])
            for e in real.watch(kind, start)
            if e["type"] != "BOOKMARK"
        ]
        assert seen == [(e["type"], e["object"]["metadata"]["name"]) for e in model.watch(kind, "0")]


def test_a_watch_from_too_long_ago_is_gone(namespace: str) -> None:
    """Of the twin, which the server began to cache at its CRD: what it caches from its own start begins at 1."""
    real, model = Real(namespace), Modelled(namespace)
    obj = base("FineTuneJob", "x", namespace, spec=SPEC)
    for side in (real, model):
        side.create(obj, "user")
    model.server.compact()
    for side in (real, model):
        with pytest.raises(ApiError) as gone:
            side.watch("FineTuneJob", "1" if side is real else "0")
        assert (gone.value.status, gone.value.reason) == (410, "Expired")


def test_what_an_owner_leaves_is_collected(namespace: str) -> None:
    real, model = Real(namespace), Modelled(namespace)
    for side in (real, model):
        owner = side.create(base("ConfigMap", "owner", namespace), "user")
        reference = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": "owner",
            "uid": owner["metadata"]["uid"],
        }
        child = base("ConfigMap", "child", namespace)
        side.create({**child, "metadata": {**child["metadata"], "ownerReferences": [reference]}}, "user")
        side.delete(owner, owner["metadata"]["uid"])
    model.server.collect()
    assert model.get(base("ConfigMap", "child", namespace)) is None
    for event in iter(lambda: real.get(base("ConfigMap", "child", namespace)), None):
        assert event["metadata"]["name"] == "child"
