"""The only module that knows kopf: it watches, and puts the key of whatever changed into the queue.

on.event alone is used: it needs no finalizer and writes no annotation, and what it missed a reconcile finds. The
handlers are there to make kopf watch; the events come from the streams themselves (streams.py).
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import kopf
import uvloop

from anneal_api.base import API_VERSION, GROUP, LABEL_DEPLOYMENT, LABEL_JOB, VERSION
from anneal_api.profiles import OperatorConfig
from anneal_operator.cluster.cached import CachedCluster
from anneal_operator.cluster.kinds import KINDS
from anneal_operator.pods import OWNER_ANNOTATION
from anneal_operator.queue import Queue
from anneal_operator.reconciler import Key, Reconciler
from anneal_operator.streams import Streams

log = logging.getLogger(__name__)
RESOURCES = {"FineTuneJob": "finetunejobs", "ModelDeployment": "modeldeployments"}
CHILDREN = (
    ("batch", "v1", "jobs"),
    ("", "v1", "pods"),
    ("", "v1", "configmaps"),
    ("", "v1", "services"),
    ("apps", "v1", "deployments"),
)
OWNERS = {"FineTuneJob": LABEL_JOB, "ModelDeployment": LABEL_DEPLOYMENT}
PLURALS = {plural: kind for kind, (_, plural) in KINDS.items()}
SETTLE = 0.2
"""Seconds for which news of a child, or of what this operator itself has written, is collected: several come at once."""
PATIENCE = 20.0
"""Seconds for which news that can wait gives way, in a burst, to what has yet to be made and to what has ended."""
WORKERS = 32
"""Looks at once: nearly all of a look is waiting for the API server, whose time goes to whoever asks for more."""
STALL_SECONDS = 120.0
"""A queue that has not turned for so long is dead."""


class Watch:
    """Ties kopf's events to the queue; `registry` is what kopf runs."""

    def __init__(
        self,
        reconciler: Reconciler,
        config: OperatorConfig,
        cache: CachedCluster | None = None,
        workers: int = WORKERS,
    ) -> None:
        self.registry = kopf.OperatorRegistry()
        self.settings = settings()
        self._reconciler = reconciler
        self._config = config
        self._cache = cache
        self._workers = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="look")
        self._queue: Queue[Key] | None = None
        self._task: asyncio.Task[None] | None = None
        self._models: dict[str, dict[str, Mapping[str, Any]]] = {}
        """What each ModelDeployment of a namespace serves."""
        self._streams = Streams((len(RESOURCES) + len(CHILDREN)) * max(1, len(config.namespaces)))
        self._register()

    def _register(self) -> None:
        registry = self.registry
        kopf.on.startup(registry=registry)(self._start)
        kopf.on.cleanup(registry=registry)(self._stop)
        kopf.on.login(registry=registry)(_login)
        for kind, plural in RESOURCES.items():
            kopf.on.event(GROUP, VERSION, plural, registry=registry, id=kind)(self._resource)
        for label in OWNERS.values():
            for group, version, plural in CHILDREN:
                kopf.on.event(
                    group,
                    version,
                    plural,
                    labels={label: kopf.PRESENT},
                    registry=registry,
                    id=f"{plural}-{label}",
                )(self._child)

    async def _start(self, **_: Any) -> None:
        queue = self._queue = Queue(self._work, self._reconciler.clock, self._workers)
        self._reconciler.metrics.queue_depth = lambda: queue.depth
        self._task = asyncio.create_task(self._queue.run())
        self._streams.install(self._hear)

    async def _stop(self, **_: Any) -> None:
        if self._task:
            self._task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _work(self, key: Key) -> Any:
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self._reconciler.reconcile, key
        )

    def trouble(self) -> str:
        """Return why this process is of no use any more; empty when it is."""
        if self._queue is None or self._task is None:
            return ""
        if self._task.done():
            return "the queue does not run"
        idle = time.monotonic() - self._queue.last_turn  # which is the loop's clock
        if idle > STALL_SECONDS:
            return f"the queue has not turned for {idle:.0f} s"
        return self._streams.trouble()

    async def _hear(self, plural: str, namespace: str | None, event: Mapping[str, Any] | None) -> None:
        """Remember what an event says before anybody looks at it."""
        kind = PLURALS[plural]
        if self._cache and event:
            self._cache.hear((kind, namespace), event["type"], event["object"])
        elif self._cache:
            self._cache.listed((kind, namespace))
        if event and kind in RESOURCES:
            await self._resource(body=event["object"])
        elif event:
            await self._child(body=event["object"], patience=PATIENCE if begins(kind, event) else 0.0)

    async def _resource(self, body: Mapping[str, Any], **_: Any) -> None:
        meta = body["metadata"]
        known = body.get("status", {}).get("observedGeneration") == meta.get("generation")
        soon = (SETTLE, PATIENCE) if known else (0.0, 0.0)
        self._add(Key(str(body["kind"]), meta["namespace"], meta["name"]), *soon)
        self._follow(body)

    async def _child(self, body: Mapping[str, Any], patience: float = 0.0, **_: Any) -> None:
        meta = body["metadata"]
        for kind, label in OWNERS.items():
            if label in meta.get("labels", {}):
                name = meta.get("annotations", {}).get(OWNER_ANNOTATION, meta["labels"][label])
                self._add(Key(kind, meta["namespace"], name), SETTLE, patience)

    def _follow(self, body: Mapping[str, Any]) -> None:
        """Remember which deployments follow which jobs, and look at them when such a job changes."""
        meta = body["metadata"]
        models = self._models.setdefault(meta["namespace"], {})
        if body["kind"] == "ModelDeployment":
            models[meta["name"]] = body["spec"].get("model", {})
            return
        for name, model in models.items():
            if _follows(model, meta):
                self._add(Key("ModelDeployment", meta["namespace"], name))

    def _add(self, key: Key, delay: float = 0.0, patience: float = 0.0) -> None:
        if self._queue is not None:
            self._queue.add(key, delay, patience)


def begins(kind: str, event: Mapping[str, Any]) -> bool:
    """Return whether an event shows a child on its way: nothing that has failed, ended, or goes."""
    child = event["object"]
    if event["type"] == "DELETED" or "deletionTimestamp" in child["metadata"]:
        return False
    status = child.get("status", {})
    if kind == "Pod":
        return bool(status.get("phase") == "Pending")
    return kind in ("Job", "Service", "ConfigMap") and not status.get("conditions")


def _follows(model: Mapping[str, Any], job: Mapping[str, Any]) -> bool:
    """Return whether spec.model names or selects the job of that metadata."""
    if selector := model.get("selector"):
        return bool(selector.items() <= job.get("labels", {}).items())
    return bool(model.get("fineTuneJobRef", {}).get("name") == job["name"])


def settings() -> kopf.OperatorSettings:
    """Return kopf's settings: nothing written to objects, no cluster-wide scans, streams that cannot die silently."""
    made = kopf.OperatorSettings()
    made.posting.enabled = False
    made.scanning.disabled = True
    made.watching.chunk_size = 500
    made.watching.inactivity_timeout = 70
    made.watching.server_timeout = 300
    made.watching.client_timeout = 330
    made.watching.connect_timeout = 10
    made.networking.request_timeout = 30
    made.persistence.finalizer = f"{GROUP}/kopf"
    for group, version, plural in CHILDREN:
        # The one label that all children carry, whoever their owner is.
        made.watching.label_selectors[group, version, plural] = f"{GROUP}/stage"
    return made


def _login(**kwargs: Any) -> Any:
    return kopf.login_via_client(**kwargs)


def run(watch: Watch, config: OperatorConfig) -> None:
    """Run until a signal comes, or a watch cannot go on."""
    log.info("serving %s in %s", API_VERSION, ", ".join(config.namespaces) or "all namespaces")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        kopf.run(
            loop=runner.get_loop(),
            registry=watch.registry,
            settings=watch.settings,
            standalone=True,
            # kopf would ask for a user name, and a container's user has none.
            identity="anneal",  # type: ignore[arg-type]
            clusterwide=not config.namespaces,
            namespaces=config.namespaces,
        )
