"""Results in the store: a folder a model and suite, which a gate finds by them, and one of a whole stage for people."""

import json
from pathlib import Path
from typing import Any

from anneal_api.artifacts import Producer, suite_key
from anneal_api.base import ArtifactRef, wire
from anneal_api.outcome import SuiteScore
from anneal_evaluation import report, telemetry
from anneal_evaluation.comparison import Comparison
from anneal_evaluation.results import SuiteResult, first_score
from anneal_runtime import artifacts
from anneal_runtime.storage import join, resolve

RESULTS = "results.json"


def write(folder: Path, results: list[SuiteResult], compared: list[Comparison] | None = None) -> None:
    """Write results.json, report.md, report.html and metrics.prom into a folder that is there."""
    (folder / RESULTS).write_text(json.dumps([wire(result) for result in results], indent=1) + "\n")
    (folder / "report.md").write_text(report.markdown(results, compared or ()))
    (folder / "report.html").write_text(report.page(results, compared or ()))
    (folder / "metrics.prom").write_bytes(telemetry.exposition(results))


def parse(content: bytes) -> list[SuiteResult]:
    """Return the results in what `write` has written; raise ValueError for anything else."""
    return [SuiteResult.model_validate(each) for each in json.loads(content)]


def publish(store: str, namespace: str, model: str, result: SuiteResult, producer: Producer) -> ArtifactRef:
    """Publish what a model, named by the key of its artifact, scored on a suite."""
    key, inputs = suite_key(model, result.digest), {"suite": result.digest}
    with artifacts.publishing(
        store, namespace, "suite", key, producer=producer, inputs=inputs
    ) as publication:
        write(publication.folder, [result])
    return publication.published


def found(store: str, namespace: str, model: str, digest: str) -> SuiteResult | None:
    """Return what a model scored on the suite with this digest, or None when it never was."""
    uri = artifacts.uri_of(store, namespace, "suite", suite_key(model, digest))
    if artifacts.published(uri) is None:
        return None
    (result,) = read(uri)
    return result


def read(uri: str) -> list[SuiteResult]:
    """Return the results in an artifact."""
    return parse(_content(uri))


def scores(artifact: ArtifactRef) -> list[SuiteScore]:
    """Return the first figure of every suite of a stage that is published."""
    return shown(read(artifact.uri))


def shown(results: list[SuiteResult]) -> list[SuiteScore]:
    """Return the first figure of every suite."""
    first = [(result.suite, first_score(result)) for result in results]
    return [
        SuiteScore(suite=suite, score=s.name, value=s.value, low=s.low, high=s.high, problems=s.problems)
        for suite, s in first
    ]


def _content(uri: str) -> bytes:
    filesystem, path = resolve(join(uri, RESULTS))
    content: Any = filesystem.cat_file(path)
    return bytes(content)
