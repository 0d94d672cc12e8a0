"""`python3 -m anneal_operator.smoke NAMESPACE CLAIM ACCELERATOR`: whether an installation works, for `helm test`.

A tiny model, which `python3 -m anneal_trainers trial` has put on the claim, is fine-tuned, compiled to INT4, measured,
served, and asked something. What was made is removed, however it ends.
"""

import json
import signal
import sys
import time
import urllib.request
from collections.abc import Callable

from anneal_api.base import API_VERSION
from anneal_operator.cluster.errors import AlreadyExists
from anneal_operator.cluster.interface import Cluster
from anneal_operator.cluster.rest import RestCluster
from anneal_operator.decision import Object

NAME = "anneal-trial"
FOLDER = "trial"
LOOK = 2.0
"""Seconds between looks."""
ANSWERED = 60.0
"""Seconds within which an operator has said something."""
LIMITS = {"FineTuneJob": 900.0, "ModelDeployment": 900.0}
"""Seconds that each may take: images may have to be pulled first."""
WANTED = {"FineTuneJob": "Complete", "ModelDeployment": "Ready"}
BROKEN = ("Refused", "Failed", "TimedOut")
"""Phases that nothing comes of unless somebody changes the resource."""


class Fault(Exception):
    """What does not work, in a sentence."""


def check(
    cluster: Cluster,
    namespace: str,
    claim: str,
    accelerator: str,
    wait: Callable[[float], None],
    ask: Callable[[str], str],
) -> str:
    """Return what the endpoint answered.

    Raises:
        Fault: something does not work.
    """
    made: list[Object] = []
    try:
        for wanted in (job(namespace, claim, accelerator), deployment(namespace, accelerator)):
            made.append(_make(cluster, wanted))
            done = follow(cluster, made[-1], wait)
        return ask(done["status"]["url"])
    finally:
        for each in reversed(made):
            cluster.delete(each["kind"], namespace, NAME, each["metadata"]["uid"])


def _make(cluster: Cluster, wanted: Object) -> Object:
    try:
        return {**cluster.create(wanted), "kind": wanted["kind"]}
    except AlreadyExists as error:
        kind, namespace = wanted["kind"].lower(), wanted["metadata"]["namespace"]
        text = f"another test runs, or was killed: kubectl -n {namespace} delete {kind} {NAME}"
        raise Fault(text) from error


def follow(cluster: Cluster, made: Object, wait: Callable[[float], None]) -> Object:
    """Return the resource once it has come where it should; say so when it moves.

    Raises:
        Fault: it never will, nobody says anything about it, or its time is over.
    """
    kind, namespace, shown = made["kind"], made["metadata"]["namespace"], ""
    for look in range(int(LIMITS[kind] / LOOK)):
        wait(LOOK)
        found = cluster.get(kind, namespace, NAME) or {}
        if (text := f"{kind} {found.get('status', {}).get('phase') or 'Pending'}") != shown:
            print(f"{look * LOOK:5.0f} s  {text}", flush=True)
            shown = text
        if fault := trouble(found, look * LOOK):
            raise Fault(fault)
        if holds(found, WANTED[kind]):
            return found
    raise Fault(f"{kind} is not {WANTED[kind]} after {LIMITS[kind]:.0f} s: {story(found)}")


def trouble(resource: Object, waited: float) -> str:
    """Return why waiting any longer is of no use; empty when it is."""
    status = resource.get("status", {})
    if not status.get("conditions") and waited > ANSWERED:
        return f"no operator has said anything in {ANSWERED:.0f} s; read its log"
    return story(resource) if status.get("phase") in BROKEN else ""


def holds(resource: Object, condition: str) -> bool:
    """Say whether a condition of a resource is true."""
    held = resource.get("status", {}).get("conditions", [])
    return any(c["type"] == condition and c["status"] == "True" for c in held)


def story(resource: Object) -> str:
    """Return what a resource's conditions say that is not as it should be."""
    held = resource.get("status", {}).get("conditions", [])
    bad = [c for c in held if (c["status"] == "True") == (c["type"] == "Failed")]
    return "; ".join(f"{c['type']} {c['reason']}: {c['message']}" for c in bad) or "no condition says why"


def job(namespace: str, claim: str, accelerator: str) -> Object:
    """Return a run of seconds over the trial's rows."""
    place = f"pvc://{claim}/{FOLDER}"
    spec = {
        "baseModel": {"uri": f"{place}/base"},
        "tasks": [{"name": "repeat", "data": {"uri": f"{place}/rows.jsonl"}}],
        "data": {"maxLength": 128, "split": {"train": 80, "validation": 10, "test": 10}},
        "adapter": {"rank": 8},
        "optimization": {"maxSteps": 8, "globalBatchTokens": 512, "learningRate": 0.01},
        "workers": {"accelerator": accelerator},
        "output": {"uri": f"pvc://{claim}/artifacts"},
    }
    return _resource("FineTuneJob", namespace, spec)


def deployment(namespace: str, accelerator: str) -> Object:
    """Return an endpoint of the run's model on OpenVINO; that it works is asked, not how well."""
    spec = {
        "model": {"fineTuneJobRef": {"name": NAME}},
        "quantization": {"groupSize": 32, "calibration": {"samples": 16}},
        "engine": {"runtime": "openvino", "maxBatchSize": 2, "maxInputLength": 128, "maxSequenceLength": 256},
        "accelerator": accelerator,
        "gate": {"maxLogitKL": 0.5, "maxPerplexityIncrease": 0.5},
        "drainSeconds": 5,
    }
    return _resource("ModelDeployment", namespace, spec)


def _resource(kind: str, namespace: str, spec: Object) -> Object:
    meta = {"name": NAME, "namespace": namespace}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": meta, "spec": spec}


def question(url: str) -> str:
    """Return what the endpoint at `url` answers to a chat.

    Raises:
        Fault: there is no answer, or none with a text in it.
    """
    chat = {"model": NAME, "messages": [{"role": "user", "content": "repeat 3 defgha"}], "max_tokens": 16}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(chat).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            said = str(json.load(answer)["choices"][0]["message"]["content"])
    except (OSError, ValueError, LookupError) as error:
        raise Fault(f"{url} does not answer as it should: {error}") from error
    if not said.strip():
        raise Fault(f"{url} answered with nothing")
    return said


def main(arguments: list[str]) -> int:
    """Print what the endpoint answered; 1 when something does not work."""
    # What was made goes too when the pod is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    namespace, claim, accelerator = arguments
    try:
        print(f"answer: {check(RestCluster.connect(), namespace, claim, accelerator, time.sleep, question)}")
    except Fault as fault:
        print(fault)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
