"""The cluster by way of kubectl: its configuration, its logins and its proxies are the user's own."""

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from anneal_cli import waiting
from anneal_runtime.errors import Refused, TryAgain

Object = dict[str, Any]
LOOK_SECONDS = 0.5
START_SECONDS = 300.0
"""How long a pod that reads a store may take to start: its image may have to be pulled."""
HOPELESS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError")
RESOURCES = {"FineTuneJob": "finetunejobs.anneal.dev", "ModelDeployment": "modeldeployments.anneal.dev"}
SHORT = {
    "ftj": "FineTuneJob",
    "finetunejob": "FineTuneJob",
    "mdep": "ModelDeployment",
    "modeldeployment": "ModelDeployment",
}


@dataclass(frozen=True)
class Kubectl:
    """A cluster and a namespace; those of kubectl's current context where they are not given."""

    context: str | None = None
    namespace: str | None = None

    def command(self, *arguments: str) -> list[str]:
        """Return the command line."""
        context = ["--context", self.context] if self.context else []
        namespace = ["--namespace", self.namespace] if self.namespace else []
        return ["kubectl", *context, *namespace, *arguments]

    def run(self, *arguments: str, text: str | None = None) -> str:
        """Return what kubectl prints.

        Raises:
            Refused: what was asked for does not exist, or may not be asked for.
            TryAgain: anything else, in kubectl's words.
        """
        done = subprocess.run(
            self.command(*arguments), input=text, capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = done.stderr.strip() or f"kubectl ended with {done.returncode}"
            wrong = re.search(r"\((NotFound|Forbidden|Invalid)\)", said)
            raise Refused(wrong[1], said) if wrong else TryAgain("KubectlFailed", said)
        return done.stdout

    def get(self, kind: str, name: str) -> Object:
        """Return one object."""
        return dict(json.loads(self.run("get", RESOURCES.get(kind, kind), name, "--output", "json")))

    def select(self, kind: str, *arguments: str) -> list[Object]:
        """Return the objects of a kind; `arguments` narrow them down as those of `kubectl get` do."""
        return list(
            json.loads(self.run("get", RESOURCES.get(kind, kind), "--output", "json", *arguments))["items"]
        )

    def find(self, name: str) -> Object:
        """Return the resource of Anneal's that `name` means: `ftj/NAME`, `mdep/NAME`, or the only one called NAME."""
        kind, _, rest = name.rpartition("/")
        if kind:
            if kind.lower() not in SHORT:
                raise Refused(
                    "UnknownKind", f"{name}: {kind} is none of {', '.join(SHORT)}; name one of these"
                )
            return self.get(SHORT[kind.lower()], rest)
        found = [each for kind in RESOURCES for each in self.select(kind) if each["metadata"]["name"] == name]
        if len(found) != 1:
            many = (
                "a FineTuneJob and a ModelDeployment are"
                if found
                else "no FineTuneJob and no ModelDeployment is"
            )
            raise Refused(
                "NotFound",
                f"{many} called {name} here; name ftj/{name} or mdep/{name}, or another --namespace",
            )
        return found[0]

    @contextlib.contextmanager
    def stream(self, *arguments: str) -> Iterator[Iterator[str]]:
        """Yield the lines that kubectl prints, as they come; it is ended with the block."""
        process = subprocess.Popen(self.command(*arguments), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            yield (line.rstrip("\n") for line in process.stdout)
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()

    @contextlib.contextmanager
    def forward(self, service: str, port: int) -> Iterator[str]:
        """Yield the address on this machine that leads to a Service's port."""
        with self.stream("port-forward", f"service/{service}", f":{port}", "--address", "127.0.0.1") as lines:
            said = next(lines, "")
            place = re.search(r"127\.0\.0\.1:(\d+)", said)
            if place is None:
                raise TryAgain(
                    "NoWay", f"service/{service}: kubectl port-forward gave no port; {said or 'see above'}"
                )
            yield f"http://127.0.0.1:{place[1]}"

    def answer(self, pod: Object) -> list[Object]:
        """Run a pod to its end and return the JSON lines it printed; the pod goes whatever happens.

        Raises:
            TryAgain: it does not start, or it fails, in its own words.
        """
        name = self.run("create", "--filename", "-", "--output", "name", text=json.dumps(pod)).strip()
        try:
            phase = self._end(name)
            said = self.run("logs", name)
        finally:
            self.run("delete", name, "--wait=false", "--ignore-not-found")
        if phase == "Failed":
            raise TryAgain("ReaderFailed", f"{name}: {said.strip()[-2000:] or 'it printed nothing'}")
        return [json.loads(line) for line in said.splitlines() if line.startswith("{")]

    @contextlib.contextmanager
    def standing(self, objects: list[Object]) -> Iterator[str]:
        """Make objects, the last of them a pod, and yield its address once it runs; all go whatever happens."""
        made = self.run(
            "create", "--filename", "-", "--output", "name", text="\n---\n".join(map(json.dumps, objects))
        )
        try:
            pod = self._until(made.split()[-1], ("Running", "Succeeded", "Failed"))
            yield str(pod["status"].get("podIP", ""))
        finally:
            self.run("delete", *made.split(), "--wait=false", "--ignore-not-found")

    def _end(self, name: str) -> str:
        """Return the phase in which a pod ends. One that runs is ended by its own deadline, one that waits by ours."""
        return str(self._until(name, ("Succeeded", "Failed"))["status"]["phase"])

    def _until(self, name: str, phases: tuple[str, ...]) -> Object:
        """Return a pod that has come to one of the phases."""
        looks = 0
        with waiting.shown(name) as tell:
            while True:
                pod: Object = json.loads(self.run("get", name, "--output", "json"))
                phase = str(pod["status"].get("phase", "Pending"))
                if phase in phases:
                    return pod
                if phase == "Pending" and (reason := stuck(pod, looks * LOOK_SECONDS)):
                    raise TryAgain("ReaderNotStarted", f"{name}: {reason}")
                tell(f"{name}: {doing(pod)}")
                time.sleep(LOOK_SECONDS)
                looks += 1


def doing(pod: Object) -> str:
    """Return what a pod is at, in Kubernetes' words: a container's reason to wait, or else the phase."""
    phase = str(pod["status"].get("phase", "Pending"))
    reasons = [state["reason"] for state in _waits(pod) if state.get("reason")]
    return reasons[0] if phase == "Pending" and reasons else phase


def _waits(pod: Object) -> list[Object]:
    return [each.get("state", {}).get("waiting", {}) for each in pod["status"].get("containerStatuses", [])]


def stuck(pod: Object, seconds: float) -> str:
    """Return why a pod that has waited for so long will not start; empty where it still may."""
    hopeless = [state for state in _waits(pod) if state.get("reason") in HOPELESS]
    if hopeless:
        return f"{hopeless[0]['reason']}: {hopeless[0].get('message', '')}"
    if seconds < START_SECONDS:
        return ""
    said = [each["message"] for each in pod["status"].get("conditions", []) if each.get("message")]
    return f"it has not started in {seconds:.0f} s: {'; '.join(said) or 'kubectl describe says more'}"
