"""What dashboard and alerts ask of training is answered by the port of a real pod."""

import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from dashboard import asked
from prometheus_client.parser import text_string_to_metric_families
from training_pods import acting, free_port, start_pods

from anneal_trainers import prepare

SECONDS = 120.0
EVERY_STEP = {"everySteps": 1}


def answered(port: int) -> set[str]:
    """Return the names of the samples that a port answers with; none while nobody listens."""
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
        families = text_string_to_metric_families(reply.read().decode())
        return {sample.name for family in families for sample in family.samples}
    return set()


@pytest.mark.slow
def test_every_metric_that_is_looked_at_is_answered(make_run: Any, tmp_path: Path) -> None:
    """The rank stands still in its third step, after validations and checkpoints, so that there is time to ask."""
    run = make_run(evaluation=EVERY_STEP, checkpoint=EVERY_STEP)
    prepare.prepare(run)
    port, wanted = free_port(), asked("anneal_train_")
    assert len(wanted) > 10
    extra = acting(tmp_path, "freeze", "Tally.ask", 3, rank=0)
    extra |= {"ANNEAL_PROGRESS_PORT": str(port), "ANNEAL_GRACE_SECONDS": "2"}
    (pod,) = start_pods(run, tmp_path, **extra)
    try:
        began = time.monotonic()
        while missing := wanted - answered(port):
            assert pod.process.poll() is None, "the pod has ended"
            assert time.monotonic() - began < SECONDS, missing
            time.sleep(0.1)
    finally:
        pod.process.terminate()
        pod.process.wait(SECONDS)
