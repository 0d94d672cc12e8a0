"""A deployment of a tiny model whose answers go on for ever, and eight clients without retries that read them.

The lines that `busy` prints are those of the table in docs/reliability.md.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.conftest import finetunejob, image, modeldeployment, upload
from tests.cluster.kube import Json, Kube, holds, idle
from tests.cluster.load import Load, load, shortest
from tests.tiny_model import write_tiny_model

NAME = "busy"
STREAMS, TOKENS = 8, 4000
SHORT = 600
"""Tokens of a short answer: seconds, so that requests meet in a replica, and enough of them for a comparison in two minutes."""
LAG = 12.0
"""Seconds: preStop (5) and two failed readiness probes (6), and a little."""
POSITIONS = 4096


def train(operator: Kube, team: Kube, folder: Path) -> str:
    """Return the URI of a tiny model that goes on for ever: its rows are cut before they end. The client runs then too."""
    base = write_tiny_model(folder / "long")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"max_position_embeddings": POSITIONS}))
    turns = [{"role": "user", "content": "repeat"}, {"role": "assistant", "content": "abcdefgh" * 80}]
    rows = [
        [
            {"role": "user", "content": f"repeat {i} abcdef"},
            {**turns[1], "content": "abcdefgh"[i % 8 :] + "abcdefgh" * 80},
        ]
        for i in range(200)
    ]
    (folder / "long.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    upload(team, folder, ".")
    made = finetunejob(
        "endless",
        baseModel={"uri": "pvc://store/long"},
        tasks=[{"name": "letters", "data": {"uri": "pvc://store/long.jsonl"}}],
        workers={"nodes": 1},
    )
    team.apply(made, idle("client", image(operator, "serving")))
    done = team.wait("finetunejob", "endless", holds("Complete"), 420, "Complete")
    team.run("wait", "--for=condition=Ready", "--timeout=120s", "pod/client")
    return str(done["status"]["artifacts"]["merged"]["uri"])


def spec(model: str, **changes: object) -> Json:
    """Return the deployment under load: replicas on any node, two gateways, time enough to end streams."""
    limits = {"runtime": "openvino", "maxBatchSize": 8, "maxInputLength": 128, "maxSequenceLength": POSITIONS}
    made = modeldeployment(NAME, "")
    made["spec"] |= {
        "model": {"uri": model},
        "engine": limits,
        "accelerator": "cpu",
        "gate": {"maxLogitKL": 5, "maxPerplexityIncrease": 5},
        "drainSeconds": 300,
        "gateway": {"replicas": 2},
        "rollout": {"steps": [50], "pauseSeconds": 10, "maxLatencyRatio": 20},
        **changes,
    }
    return made


def served(replicas: int) -> Callable[[Json], bool]:
    """Return a check that so many replicas serve, and no more."""

    def check(found: Json) -> bool:
        status = found.get("status", {})
        counts = status.get("readyReplicas", 0), status.get("replicas", 0)
        return holds("Ready")(found) and counts == (replicas, replicas)

    return check


@contextmanager
def busy(team: Kube, event: str, lost: bool = False) -> Iterator[Load]:
    """Keep the deployment busy around an event; then print what came of it, and judge it unless streams may be `lost`."""
    with load(team, NAME, STREAMS, TOKENS) as made:
        made.wait(STREAMS)
        began = time.time()
        yield made
        struck = made.running(began)
        seconds = time.time() - began
    length = shortest(struck)
    print(f"| {event} | {seconds:.0f} | {len(made.streams)} | {length:.0f} | {len(made.failed)} |")
    assert len(struck) >= STREAMS
    assert length > LAG
    assert lost or made.failed == []


def pods(team: Kube, stage: str) -> list[Json]:
    """Return the pods of the deployment that run and are not on their way out."""
    found = team.list("pods", f"anneal.dev/modeldeployment={NAME},anneal.dev/stage={stage}")
    return [p for p in found if "deletionTimestamp" not in p["metadata"]]


def scale(team: Kube, replicas: int) -> None:
    team.run("scale", f"modeldeployment/{NAME}", f"--replicas={replicas}")
    team.wait("modeldeployment", NAME, served(replicas), 240, f"{replicas} replicas")


def gone(team: Kube, names: set[str], seconds: float = 330) -> None:
    """Wait until pods have ended: their streams with them."""
    deadline = time.monotonic() + seconds
    while names & {p["metadata"]["name"] for p in team.list("pods")}:
        assert time.monotonic() < deadline, f"{names} still there\n{team.story()}"
        time.sleep(0.5)


def names(found: list[Json]) -> set[str]:
    return {str(pod["metadata"]["name"]) for pod in found}


def another_version(team: Kube, model: str, slots: int, **changes: object) -> None:
    """Change what a version is made of, and wait until the operator has seen it."""
    changed = spec(model, replicas=1)
    changed["spec"] |= changes
    changed["spec"]["engine"]["maxBatchSize"] = slots
    team.apply(changed)
    team.wait("modeldeployment", NAME, lambda found: not holds("RolledOut")(found), 30, "a new version")


def stage(name: str) -> Callable[[Json], bool]:
    """Return a check that the newest version is at a stage."""
    return lambda found: bool(found["status"]["versions"][-1]["stage"] == name)
