"""Plays the nodes: gives Jobs pods, ends them as a script says, lets Deployments become ready."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from api_server import ApiServer, Object

from anneal_api.base import LABEL_ATTEMPT, LABEL_STAGE
from anneal_api.outcome import EXIT_CODES, Outcome

Script = list[Outcome | None]
NO_ROOM = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"}
WITHOUT_NODE = {"phase": "Pending", "conditions": [NO_ROOM]}


class Player:
    """Ends each stage's next Job with the next outcome of its script; without one the Job goes on running."""

    def __init__(self, server: ApiServer, clock: Callable[[], str]) -> None:
        self.server = server
        self.scripts: dict[str, Script] = defaultdict(list)
        self.default: dict[str, Outcome] = {}
        self.played: list[tuple[str, str]] = []
        self.room = 40
        """How many pods of one Job find a node; the others wait for one."""
        self._clock = clock

    def play(self) -> None:
        """Let every Job start, and end if its script says so; let every Deployment become ready."""
        for obj in list(self.server.objects.values()):
            if obj["kind"] == "Job" and not _over(obj):
                self._play(obj)
            if obj["kind"] == "Deployment":
                self._deploy(obj)
        self.server.collect()

    def pods(self, job: Object) -> list[Object]:
        uid = job["metadata"]["uid"]
        return [
            o
            for o in self.server.objects.values()
            if o["kind"] == "Pod" and any(r["uid"] == uid for r in o["metadata"]["ownerReferences"])
        ]

    def _play(self, job: Object) -> None:
        held = bool(job["spec"].get("suspend"))
        if held != _held(job):
            self._hold(job, held)
        if not held:
            self._start(job)
            self._end(job)

    def _hold(self, job: Object, held: bool) -> None:
        """Say that a Job is suspended, and end its pods; or that it no longer is."""
        meta, now = job["metadata"], self._clock()
        for pod in self.pods(job) if held else []:
            self.server.remove("Pod", meta["namespace"], pod["metadata"]["name"])
        said = {"type": "Suspended", "status": str(held), "lastTransitionTime": now}
        began = {} if held else {"startTime": now}
        self.server.set_status("Job", meta["namespace"], meta["name"], {"conditions": [said], **began})

    def _start(self, job: Object) -> None:
        if self.pods(job):
            return
        for index in range(job["spec"].get("completions", 1)):
            self.server.put(self._pod(job, index))

    def _pod(self, job: Object, index: int) -> Object:
        meta, template = job["metadata"], job["spec"]["template"]
        # Like the Job controller's random suffix: a Job made anew meets no pod of the one before it.
        name, placed = f"{meta['name']}-{index}-{_suffix(meta['uid'])}", index < self.room
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": meta["namespace"],
                "labels": dict(template["metadata"]["labels"]),
                "annotations": {
                    **template["metadata"]["annotations"],
                    "batch.kubernetes.io/job-completion-index": str(index),
                },
                "ownerReferences": [
                    {"kind": "Job", "name": meta["name"], "uid": meta["uid"], "controller": True}
                ],
            },
            "spec": {**template["spec"], "nodeName": _nodes(template["spec"])[index] if placed else ""},
            "status": _running(index) if placed else WITHOUT_NODE,
        }

    def _end(self, job: Object) -> None:
        stage = _labels(job)[LABEL_STAGE]
        script = self.scripts[stage]
        outcome = script.pop(0) if script else self.default.get(stage)
        if outcome is not None:
            self.end(job, outcome)

    def end(self, job: Object, outcome: Outcome) -> None:
        """End a Job with one outcome of its first pod."""
        meta, labels = job["metadata"], _labels(job)
        self.played.append((labels[LABEL_STAGE], labels.get(LABEL_ATTEMPT, "")))
        code = EXIT_CODES[outcome.verdict]
        for pod in self.pods(job):
            self._end_pod(pod, code, outcome.model_dump_json(by_alias=True, exclude_none=True))
        word = "Complete" if code == 0 else "Failed"
        condition = {
            "type": word,
            "status": "True",
            "reason": "PodFailurePolicy" if code else "",
            "lastTransitionTime": self._clock(),
        }
        self.server.set_status("Job", meta["namespace"], meta["name"], {"conditions": [condition]})

    def _end_pod(self, pod: Object, code: int, message: str) -> None:
        ended = {
            "exitCode": code,
            "message": message,
            "finishedAt": self._clock(),
            "reason": "Completed" if code == 0 else "Error",
        }
        status = {
            **pod["status"],
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [{"name": "main", "state": {"terminated": ended}}],
        }
        self.server.set_status("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"], status)

    def _deploy(self, deployment: Object) -> None:
        meta, count = deployment["metadata"], deployment["spec"]["replicas"]
        status: dict[str, Any] = {
            "observedGeneration": meta["generation"],
            "replicas": count,
            "readyReplicas": count,
        }
        if deployment.get("status") != status:
            self.server.set_status("Deployment", meta["namespace"], meta["name"], status)


def _labels(job: Object) -> dict[str, str]:
    """Return the labels of a Job's pods: nobody has touched them."""
    return dict(job["spec"]["template"]["metadata"]["labels"])


def _nodes(pod: Object) -> list[str]:
    """Return the nodes a scheduler could choose for pods that want a node each."""
    affinity = pod.get("affinity", {}).get("nodeAffinity", {})
    terms = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", [])
    avoided = {name for term in terms for e in term["matchExpressions"] for name in e["values"]}
    return [name for name in (f"node-{n}" for n in range(40)) if name not in avoided]


def _running(index: int) -> Object:
    return {
        "phase": "Running",
        "podIP": f"10.0.0.{index + 1}",
        "containerStatuses": [{"name": "main", "state": {"running": {}}}],
    }


def _suffix(uid: str) -> str:
    """Return ten hex digits for a UID of the server in memory."""
    return f"{int(uid.rpartition('-')[2]):010x}"


def _over(job: Object) -> bool:
    return any(c["type"] in ("Complete", "Failed") for c in job.get("status", {}).get("conditions", []))


def _held(job: Object) -> bool:
    """Whether the Job controller has noticed that a Job is suspended."""
    held = [c for c in job.get("status", {}).get("conditions", []) if c["type"] == "Suspended"]
    return any(c["status"] == "True" for c in held)
