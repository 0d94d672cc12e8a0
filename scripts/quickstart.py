"""Follows the quick start from `kubectl apply` to an answer, and checks what it promises.

Usage: python scripts/quickstart.py NAMESPACE; kubectl's current context is used. Exits 1 with a
sentence when something promised did not happen.
"""

import concurrent.futures
import contextlib
import itertools
import json
import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai

NAME = "quickstart"
TRAINING_LIMIT = 45 * 60
SERVING_LIMIT = 30 * 60
SCALE_LIMIT = 5 * 60
STREAMS = 12
QUESTION = (
    "Write the Python function described here.\n\n"
    'def is_leap(year):\n    """Return True if year is a leap year, False otherwise."""'
)


def kubectl(*arguments: str) -> str:
    """Return what kubectl prints."""
    return subprocess.run(["kubectl", *arguments], check=True, capture_output=True, text=True).stdout


def get(namespace: str, kind: str) -> dict[str, Any]:
    """Return the quick start's resource of this kind."""
    return dict(json.loads(kubectl("-n", namespace, "get", kind, NAME, "-o", "json")))


def condition(resource: dict[str, Any], kind: str) -> dict[str, str]:
    """Return a condition, or an empty one."""
    found = resource.get("status", {}).get("conditions", [])
    return next((c for c in found if c["type"] == kind), {"status": "Unknown", "reason": "", "message": ""})


def follow(
    what: str,
    look: Callable[[], dict[str, Any]],
    line: Callable[[dict[str, Any]], str],
    done: Callable[[dict[str, Any]], bool],
    broken: Callable[[dict[str, Any]], str],
    limit: float,
) -> dict[str, Any]:
    """Print `line` whenever it changes until `done`; exit when `broken` says why, or after `limit` seconds."""
    started, shown = time.monotonic(), ""
    while True:
        resource = look()
        if (text := line(resource)) != shown:
            print(f"  {time.monotonic() - started:5.0f}s  {text}", flush=True)
            shown = text
        if done(resource):
            return resource
        if reason := broken(resource):
            sys.exit(f"{what} failed: {reason}")
        if time.monotonic() - started > limit:
            sys.exit(f"{what} is not done after {limit:.0f}s; see `kubectl describe {what}`")
        time.sleep(2)


def job_line(job: dict[str, Any]) -> str:
    """Return a FineTuneJob in a line."""
    status = job.get("status", {})
    progress = status.get("progress", {})
    steps = f"step {progress['step']}/{progress['totalSteps']}" if progress.get("totalSteps") else ""
    losses = f"loss {progress['loss']}" if progress.get("loss") else ""
    return "  ".join(filter(None, [f"FineTuneJob {status.get('phase', 'Pending')}", steps, losses]))


def deployment_line(deployment: dict[str, Any]) -> str:
    """Return a ModelDeployment in a line."""
    status = deployment.get("status", {})
    counts = f"{status.get('readyReplicas', 0)}/{status.get('desiredReplicas', 0)} replicas"
    return f"ModelDeployment {status.get('phase', 'Pending')}  {counts}"


def blocked(resource: dict[str, Any]) -> str:
    """Return why nothing will come of this resource unless somebody changes it, or nothing."""
    status = resource.get("status", {})
    if status.get("phase") not in ("Refused", "Failed", "TimedOut"):
        return ""
    told = [
        c for c in status["conditions"] if c["message"] and (c["status"] == "True") == (c["type"] == "Failed")
    ]
    return "; ".join(f"{c['type']} {c['reason']}: {c['message']}" for c in told)


def show_losses(job: dict[str, Any]) -> None:
    """Print base against fine-tuned loss by task; exit when a task did not improve."""
    print("\nLoss on held-out modules (nats a token), base against fine-tuned:")
    print(f"  {'task':24} {'base':>8} {'tuned':>8} {'change':>8} {'rows':>6}")
    worse = []
    for score in job["status"]["scores"]:
        base, tuned = float(score["baseLoss"]), float(score["tunedLoss"])
        print(f"  {score['name']:24} {base:8.4f} {tuned:8.4f} {tuned / base - 1:8.1%} {score['rows']:6}")
        worse += [score["name"]] if tuned >= base else []
    if worse:
        sys.exit(f"these tasks did not improve: {', '.join(worse)}")


def show_gate(deployment: dict[str, Any]) -> None:
    """Print INT4 against full precision, with the budget."""
    version = deployment["status"]["versions"][0]
    budget = deployment["spec"]["gate"]
    print("\nINT4 against full precision, on the engine that serves:")
    print(f"  mean logit KL        {version['gate']['logitKL']:>8}  (budget {budget['maxLogitKL']})")
    increase, most = version["gate"]["perplexityIncrease"], budget["maxPerplexityIncrease"]
    print(f"  perplexity increase  {increase:>8}  (budget {most})")
    print(f"  {version['gate'].get('detail', '')}")


@contextlib.contextmanager
def endpoint(namespace: str) -> Iterator[openai.OpenAI]:
    """Forward a local port to the gateway and yield a client of it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["kubectl", "-n", namespace, "port-forward", f"service/{NAME}", f"{port}:80"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forward:
        try:
            assert forward.stdout is not None
            forward.stdout.readline()  # printed once it listens
            yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        finally:
            forward.terminate()


def show_answer(client: openai.OpenAI) -> None:
    """Print a chat completion as it streams; exit when it is empty."""
    print(f"\nA chat completion, streamed:\n\n{QUESTION}\n\n--- answer", flush=True)
    stream = client.chat.completions.create(
        model=NAME,
        messages=[{"role": "user", "content": QUESTION}],
        stream=True,
        max_tokens=160,
        temperature=0,
    )
    started, pieces = time.monotonic(), []
    for chunk in stream:
        if chunk.choices and (text := chunk.choices[0].delta.content):
            pieces.append(text)
            print(text, end="", flush=True)
    print(f"\n--- {len(pieces)} pieces in {time.monotonic() - started:.1f}s")
    if not "".join(pieces).strip():
        sys.exit("the endpoint answered with nothing")


def show_scale_up(namespace: str, client: openai.OpenAI) -> None:
    """Load the endpoint until a second replica serves; exit when none comes."""
    print(f"\nScale-up: {STREAMS} streams at once against one replica", flush=True)
    enough = threading.Event()

    def ask(number: int) -> int:
        for answered in itertools.count():
            if enough.is_set():
                return answered
            text = f"Write a Python function number {number} that sorts a list, and explain it."
            client.chat.completions.create(
                model=NAME, messages=[{"role": "user", "content": text}], max_tokens=200, temperature=0.7
            )
        return math.inf  # type: ignore[return-value]

    with concurrent.futures.ThreadPoolExecutor(STREAMS) as pool:
        answers = [pool.submit(ask, number) for number in range(STREAMS)]
        try:
            follow(
                f"modeldeployment/{NAME}",
                lambda: get(namespace, "modeldeployment"),
                lambda d: f"{deployment_line(d)}  load {d['status'].get('load', '')}",
                lambda d: d["status"].get("readyReplicas", 0) >= 2,
                lambda d: next((str(a.exception()) for a in answers if a.done() and a.exception()), ""),
                SCALE_LIMIT,
            )
        finally:
            enough.set()
    print(f"  {sum(a.result() for a in answers)} answers meanwhile, none failed")


def main(namespace: str) -> None:
    """Follow the quick start."""
    job = follow(
        f"finetunejob/{NAME}",
        lambda: get(namespace, "finetunejob"),
        job_line,
        lambda j: condition(j, "Complete")["status"] == "True",
        blocked,
        TRAINING_LIMIT,
    )
    deployment = follow(
        f"modeldeployment/{NAME}",
        lambda: get(namespace, "modeldeployment"),
        deployment_line,
        lambda d: condition(d, "Ready")["status"] == "True",
        blocked,
        SERVING_LIMIT,
    )
    with endpoint(namespace) as client:
        show_answer(client)
        show_losses(job)
        show_gate(deployment)
        show_scale_up(namespace, client)


if __name__ == "__main__":
    main(sys.argv[1])
