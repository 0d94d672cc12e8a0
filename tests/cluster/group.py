"""A training group under observation: runs that are long enough to be struck, and the times of what follows."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.conftest import finetunejob
from tests.cluster.kube import Json, Kube, holds
from tests.cluster.witness import Ending, Steps, Watch, heard, processes

ROOT = Path(__file__).parents[2]
STEPS, SAVED_EVERY = 80, 10
RANK, LAUNCHER = b"anneal_trainers\0rank", b"anneal_trainers\0train"


def cluster(*words: str) -> None:
    """Run the cluster's own command."""
    subprocess.run([sys.executable, "-m", "cluster", *words], cwd=ROOT, check=True, capture_output=True)


def job(name: str, claim: str = "store", steps: int = STEPS, **workers: Any) -> Json:
    """Return a run that is long enough to be caught in the middle; each in a store of its own.

    It would find another's adapter published otherwise.
    """
    made = finetunejob(name, output={"uri": f"pvc://{claim}/{name}", "merge": False})
    made["spec"]["optimization"] |= {"maxSteps": steps, "seed": 21}
    made["spec"]["checkpoint"] = {"everySteps": SAVED_EVERY}
    made["spec"]["workers"] |= workers
    return made


def result(team: Kube, name: str) -> tuple[str, str]:
    """Wait for the end of a run; return the last validation loss, and the digest of the adapter's weights."""
    done = team.wait("finetunejob", name, holds("Complete"), 900, "Complete")
    adapter = done["status"]["artifacts"]["adapter"]["uri"].replace("pvc://", "")
    manifest = json.loads(
        (volume(team, adapter.split("/")[0]) / adapter.split("/", 1)[1] / "manifest.json").read_text()
    )
    (weights,) = (file for file in manifest["files"] if "adapter_model" in json.dumps(file))
    return done["status"]["progress"]["validationLoss"], json.dumps(weights)


def volume(team: Kube, claim: str) -> Path:
    """Return a claim's folder: all nodes share this machine's disk."""
    bound = team.get("pv", team.get("pvc", claim)["spec"]["volumeName"])["spec"]
    return Path((bound.get("hostPath") or bound["local"])["path"])


def quiet(team: Kube) -> Callable[[], tuple[str, str]]:
    """Start a run to which nothing happens; return what waits for its result."""
    team.apply(job("quiet"))
    return lambda: result(team, "quiet")


def pods(team: Kube, name: str) -> list[Json]:
    """Return the pods of the newest attempt, by rank."""
    found = team.list("pods", f"anneal.dev/finetunejob={name},anneal.dev/stage=train")
    return pods_of(team, name, max(attempt_of(pod) for pod in found))


def attempt_of(pod: Json) -> int:
    return int(pod["metadata"]["labels"]["anneal.dev/attempt"])


@dataclass
class Observed:
    """The first attempt of a run, whose pods train, and what is written down of it."""

    team: Kube
    name: str
    pods: list[Json]
    endings: dict[str, Ending]
    steps: list[Steps]
    jobs: Watch
    told: Watch
    nodes: Watch

    @property
    def step(self) -> int:
        """The last step that any pod of the attempt has told of."""
        return max((step.number for steps in self.steps for step in steps.heard), default=0)

    @property
    def saved(self) -> int:
        return max((step.saved for steps in self.steps for step in steps.heard), default=0)

    def wait(self, step: int, saved: int = 0, seconds: float = 300) -> None:
        """Return once a step is done and another one saved."""
        deadline = time.monotonic() + seconds
        while self.step < step or self.saved < saved:
            assert time.monotonic() < deadline, f"{self.name} is at step {self.step}\n{self.team.story()}"
            time.sleep(0.05)


@contextmanager
def observed(team: Kube, name: str) -> Iterator[Observed]:
    """Observe a job that was applied, from the moment its newest attempt's pods run until the context is left."""
    found = _running(team, name)
    jobs = Watch(f"/apis/anneal.dev/v1alpha1/namespaces/{team.namespace}/finetunejobs")
    watches = (jobs, Watch(f"/api/v1/namespaces/{team.namespace}/pods"), Watch("/api/v1/nodes"))
    steps = [Steps(team, pod) for pod in found]
    endings = {pod["metadata"]["name"]: Ending(processes(pod, LAUNCHER)[0]) for pod in found}
    try:
        yield Observed(team, name, found, endings, steps, *watches)
    finally:
        for stream in steps:
            stream.close()
        for watch in watches:
            watch.close()


def _running(team: Kube, name: str) -> list[Json]:
    """Return the pods of a group once all of them run."""
    deadline = time.monotonic() + 300
    while True:
        tried = team.get("finetunejob", name).get("status", {}).get("attempts", [])
        found = pods_of(team, name, tried[-1]["number"]) if tried else []
        up = [pod for pod in found if pod["status"]["phase"] == "Running" and processes(pod, LAUNCHER)]
        if up and len(up) == tried[-1]["nodes"]:
            return up
        assert time.monotonic() < deadline, f"the group of {name} does not run\n{team.story()}"
        time.sleep(0.3)


@dataclass(frozen=True)
class Times:
    """Seconds from a fault: the group's last process within reach ends, the operator writes the attempt's end down,
    the next group's first pod is made, its first step is done. `known`: the API server tells that something is wrong;
    `alone`: the first process within reach has ended."""

    known: float
    alone: float
    over: float
    ended: float
    following: float
    training: float
    lost: int
    """Steps that were done and are done again."""

    def row(self, name: str, cause: str) -> str:
        """Return the row of the table in docs/reliability.md."""
        moments = (self.known, self.alone, self.over, self.ended, self.following, self.training)
        cells = [name, cause, *(f"{moment:.1f}" for moment in moments), str(self.lost)]
        return f"| {' | '.join(cells)} |"


def times(seen: Observed, moment: float, unreachable: str = "") -> Times:
    """Return what happened after a fault of the observed attempt; `unreachable` is a node that can be asked nothing."""
    number = attempt_of(seen.pods[0])
    reached = [pod["metadata"]["name"] for pod in seen.pods if pod["spec"]["nodeName"] != unreachable]
    ends = [seen.endings[name].at or float("inf") for name in reached]
    first = heard(seen.team, pods_of(seen.team, seen.name, number + 1)[0])[0]
    names = {pod["metadata"]["name"] for pod in seen.pods}
    trouble = seen.told.first(lambda event: _in_trouble(event, names), moment)
    absence = seen.nodes.first(_lost(unreachable), moment)
    ended = seen.jobs.first(lambda event: _has_ended(event, seen.name, number), moment)
    following = seen.told.first(lambda event: _is_of(event, seen.name, number + 1), moment)
    assert trouble or absence, "the API server has told of nothing"
    assert ended
    assert following
    return Times(
        known=min(at for at in (trouble, absence) if at) - moment,
        alone=min(ends) - moment,
        over=max(ends) - moment,
        ended=ended - moment,
        following=following - moment,
        training=first.at - moment,
        lost=max(0, seen.step - first.number + 1),
    )


def pods_of(team: Kube, name: str, attempt: int) -> list[Json]:
    """Return the pods of an attempt, by rank."""
    found = team.list("pods", f"anneal.dev/finetunejob={name},anneal.dev/attempt={attempt}")
    return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))


def _in_trouble(event: Json, names: set[str]) -> bool:
    meta, status = event["object"]["metadata"], event["object"].get("status", {})
    gone = "deletionTimestamp" in meta or status.get("phase") == "Failed"
    return meta["name"] in names and gone


def _lost(node: str) -> Callable[[Json], bool]:
    def matches(event: Json) -> bool:
        conditions = event["object"].get("status", {}).get("conditions", [])
        ready = next((c["status"] for c in conditions if c["type"] == "Ready"), "True")
        return bool(event["object"]["metadata"]["name"] == node and ready != "True")

    return matches


def _has_ended(event: Json, name: str, number: int) -> bool:
    found = event["object"].get("status", {}).get("attempts", [])
    mine = bool(event["object"]["metadata"]["name"] == name)
    return mine and any(a["number"] == number and a.get("ended") for a in found)


def _is_of(event: Json, name: str, attempt: int) -> bool:
    labels = event["object"]["metadata"].get("labels", {})
    wanted = {"anneal.dev/finetunejob": name, "anneal.dev/attempt": str(attempt)}
    return bool(wanted.items() <= labels.items())
