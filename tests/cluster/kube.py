"""kubectl as the tests use it: JSON out, waiting with a reason when it takes too long."""

import json
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
Description = tuple[str, list[str]]
"""What `kubectl describe` says of an object, and the reasons of its events as they follow there."""


@dataclass(frozen=True)
class Kube:
    """kubectl in one namespace."""

    namespace: str

    def run(self, *arguments: str, stdin: str | bytes | None = None) -> str:
        """Return what kubectl prints; its complaint is part of the error."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        command = ["kubectl", "-n", self.namespace, *arguments]
        done = subprocess.run(command, input=data, capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode()}")
        return done.stdout.decode()

    def get(self, kind: str, name: str) -> Json:
        """Return one object."""
        return dict(json.loads(self.run("get", kind, name, "-o", "json")))

    def list(self, kind: str, selector: str = "") -> list[Json]:
        """Return the objects of a kind."""
        return list(json.loads(self.run("get", kind, "-l", selector, "-o", "json"))["items"])

    def apply(self, *objects: Json) -> None:
        """Apply objects."""
        self.run("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def describe(self, kind: str, name: str, event: str) -> Description:
        """Describe an object. Events are written beside the status: one with the reason `event` is waited for."""
        deadline = time.monotonic() + 20
        while True:
            said, reasons = described(self.run("describe", kind, name))
            if event in reasons:
                return said, reasons
            assert time.monotonic() < deadline, f"no event {event} of {kind}/{name}: {reasons}"
            time.sleep(0.5)

    def patch(self, kind: str, name: str, patch: Json) -> None:
        """Merge-patch one object."""
        self.run("patch", kind, name, "--type=merge", "-p", json.dumps(patch))

    def wait(
        self, kind: str, name: str, until: Callable[[Json], bool], seconds: float, why: str = "the condition"
    ) -> Json:
        """Poll one object until `until` holds; fail with its status after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.get(kind, name)
            if until(found):
                return found
            if time.monotonic() > deadline:
                status = json.dumps(found.get("status"), indent=1)
                raise AssertionError(
                    f"{kind}/{name}: {why} not within {seconds:.0f}s: {status}\n{self.story()}"
                )
            time.sleep(0.5)

    def wait_gone(self, kind: str, selector: str, seconds: float) -> None:
        """Wait until nothing of a kind matches."""
        deadline = time.monotonic() + seconds
        while found := self.list(kind, selector):
            names = [o["metadata"]["name"] for o in found]
            assert time.monotonic() < deadline, f"{kind} still there after {seconds:.0f}s: {names}"
            time.sleep(0.5)

    def story(self) -> str:
        """Return what happened in the namespace, for a failed test's report."""
        pods = self.run("get", "pods", "-o", "wide")
        events = self.run("get", "events", "--sort-by=.lastTimestamp")
        return pods + "\n".join(events.splitlines()[-30:])


def described(text: str) -> Description:
    """Take what `kubectl describe` has printed apart, its columns of one space."""
    said, _, events = text.partition("\nEvents:")
    # Below a line of titles and one of dashes: type, reason, age, source, message.
    reasons = [line.split()[1] for line in events.splitlines()[3:] if line.strip()]
    return re.sub(" +", " ", said), reasons


def condition(resource: Json, kind: str) -> Json:
    """Return a condition of a resource, or an empty one."""
    found = resource.get("status", {}).get("conditions", [])
    return next((c for c in found if c["type"] == kind), {"status": "Unknown", "reason": "", "message": ""})


def holds(kind: str, status: str = "True", reason: str = "") -> Callable[[Json], bool]:
    """Return a check that a condition has a status, and a reason where one is named."""

    def check(resource: Json) -> bool:
        found = condition(resource, kind)
        return found["status"] == status and (not reason or found["reason"] == reason)

    return check


def idle(name: str, image: str, claim: str = "") -> Json:
    """Return a restricted pod that waits for `exec`, on the node that nobody takes away; with a claim mounted."""
    volumes = [{"name": claim, "persistentVolumeClaim": {"claimName": claim}}] if claim else []
    container = {
        "name": name,
        "image": image,
        "command": ["python3", "-c", "import signal; signal.pause()"],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": claim, "mountPath": f"/mnt/anneal/{claim}"} for _ in volumes],
    }
    spec = {
        # Tests of faults take training nodes away.
        "nodeSelector": {"anneal.dev/pool": "serving"},
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
