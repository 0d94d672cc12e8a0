"""A real model in float16 and in INT4: plain rounding, AWQ and NNCF at equal bits, through the stages as pods run them.

Perplexity and KL are those of the gate stage, on the OpenVINO engine that would serve. Each method's figures are kept in the
cache, so a run that is cut off goes on from there.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import deployed
import smollm2
from report import ROOT, Figure, record

from anneal_api.modeldeployment import Gate
from anneal_api.runs import ENV_TERMINATION_LOG, DeploymentRun
from anneal_runtime import artifacts
from anneal_serving import divergence, engine, gate, quantize
from anneal_serving.openvino_ir import MODEL

METHODS = ("none", "rtn", "awq")
LIMITS = {"maxInputLength": 512, "maxSequenceLength": 1024}
PEER = [str(ROOT / ".venv-peers-serve" / "bin" / "python"), str(Path(__file__).with_name("nncf_peer.py"))]


@dataclass(frozen=True)
class Measured:
    """What a method came to: the gate's figures, bytes of the graph, CPU seconds it took to quantise."""

    logit_kl: float
    perplexity_increase: float
    size: int
    seconds: float


def measure(run: DeploymentRun) -> Measured:
    """Quantise, compile and gate as pods do."""
    started = time.process_time()
    quantize.run(run)
    seconds = time.process_time() - started
    engine.run(run)
    found = gate.run(run)
    size = weights_file(deployed.folder_of(run, "engine")).stat().st_size
    return Measured(found.logit_kl, found.perplexity_increase, size, seconds)


def measure_nncf(whole: DeploymentRun, folder: Path) -> Measured:
    """Let NNCF quantise the graph in float16 that ours was measured on, and ask of it what the gate asks."""
    deployed.compiled(whole)
    source, quantized = (deployed.folder_of(whole, stage) for stage in ("engine", "quantize"))
    model = Path(whole.model.uri.removeprefix("file://"))
    recipe = whole.spec.quantization.calibration
    rows = [row.tolist() for row in quantize.calibration_rows(model / quantize.CALIBRATION, recipe.samples)]
    (folder / "rows.json").write_text(json.dumps(rows))
    words = [str(source / MODEL), str(folder / "rows.json"), str(deployed.GROUP), str(folder / MODEL)]
    done = subprocess.run([*PEER, *words], check=True, stdout=subprocess.PIPE, text=True)
    figures = asked(folder, quantized / gate.REFERENCE, whole)
    size = weights_file(folder).stat().st_size
    seconds = float(done.stdout.splitlines()[-1])
    return Measured(figures["logitKL"], figures["perplexityIncrease"], size, seconds)


def asked(folder: Path, reference: Path, run: DeploymentRun) -> dict[str, Any]:
    """Return the gate's figures of a graph that no stage has made."""
    rows = divergence.spread(divergence.read_rows(reference), gate.TOKENS)
    logits, _ = gate.openvino_logits(folder, engine.openvino_properties(run.spec.engine))
    tallies = divergence.by_task((row.task, divergence.compare(row, logits(row))) for row in rows)
    manifest = artifacts.published(run.model.uri)
    assert manifest is not None
    return gate.summary(tallies, quantize.task_names(manifest.metadata["tasks"]))


def weights_file(folder: Path) -> Path:
    """Return the file with a graph's weights."""
    return (folder / MODEL).with_suffix(".bin")


def weights_of(model: str) -> list[Path]:
    """Return the model's weight files."""
    return sorted(Path(model.removeprefix("file://")).glob("model*.safetensors"))


def read_seconds(files: list[Path]) -> float:
    """Return the CPU seconds that reading the files once takes, from the page cache as quantising does."""
    started = time.process_time()
    for path in files:
        path.read_bytes()
    return time.process_time() - started


def rows_of(name: str, found: Measured) -> list[Figure]:
    """Return the figures of a method; AWQ is to keep within the gate's own budgets."""
    budget = Gate()
    ours = name == "awq"
    limits = {"KL": budget.max_logit_kl, "perplexity": 100 * budget.max_perplexity_increase}
    more = 100 * found.perplexity_increase
    return [
        Figure(
            f"{name}: worst task's perplexity increase",
            more,
            "%",
            "",
            f"<= {limits['perplexity']:g}" if ours else "",
            more <= limits["perplexity"] if ours else None,
        ),
        Figure(
            f"{name}: mean KL",
            found.logit_kl,
            "nats/token",
            "",
            f"<= {limits['KL']:g}" if ours else "",
            found.logit_kl <= limits["KL"] if ours else None,
        ),
        Figure(f"{name}: weights of the graph", found.size / 1e6, "MB"),
        Figure(f"{name}: time to quantise", found.seconds, "CPU-s"),
    ]


def kept(run: DeploymentRun, name: str, make: Callable[[], Measured]) -> Measured:
    """Return a method's figures, those measured before if there are any."""
    found = Measured(**deployed.kept(run, f"quantize {name}", lambda: asdict(make())))
    print(f"{name}: {found}", flush=True)
    return found


def main() -> None:
    """Measure what is not measured, and record the figures."""
    model = smollm2.exported()
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: deployed.planned(model, name, f"file://{folder}/{name}", LIMITS) for name in METHODS}
        found = {name: kept(run, name, partial(measure, run)) for name, run in runs.items()}
        (Path(folder) / "nncf").mkdir()
        whole = deployed.planned(model, "none", f"file://{smollm2.CACHE}/store", LIMITS)
        peer = partial(measure_nncf, whole, Path(folder) / "nncf")
        found["NNCF's AWQ"] = kept(runs["awq"], "NNCF's AWQ", peer)
    files = weights_of(model)
    size = sum(path.stat().st_size for path in files) / 1e9
    figures = [figure for name, each in found.items() for figure in rows_of(name, each)]
    figures += [
        Figure("rtn: weights quantised", size / found["rtn"].seconds, "GB/CPU-s"),
        Figure("a plain read of the same files", size / read_seconds(files), "GB/CPU-s"),
    ]
    for peer, target in (("rtn", 0.6), ("NNCF's AWQ", 1.0)):
        for what, ratio in (
            ("perplexity increase", found["awq"].perplexity_increase / found[peer].perplexity_increase),
            ("KL", found["awq"].logit_kl / found[peer].logit_kl),
        ):
            met = ratio <= target
            figures.append(
                Figure(f"AWQ's {what} over that of {peer}", ratio, "ratio", peer, f"<= {target:g}", met)
            )
    record("quantize", figures)


if __name__ == "__main__":
    os.environ.setdefault(ENV_TERMINATION_LOG, "/dev/null")
    main()
