"""HumanEval of a real model: as it was published, fine-tuned, and fine-tuned in INT4, by AWQ and by plain rounding, on the engine that
would serve it.

Models are asked and judged as the suites stage and the gate do. Answers are kept in the cache, by model and request, so
a run that is cut off goes on from there; nothing here is timed.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import deployed
import smollm2
from report import Figure, record

from anneal_api.runs import ENV_TERMINATION_LOG
from anneal_evaluation import comparison, scoring
from anneal_evaluation.in_process import InProcess
from anneal_evaluation.judging import Here
from anneal_evaluation.results import Settings, SuiteResult
from anneal_evaluation.scoring import Request
from anneal_evaluation.suites import files
from anneal_runtime import artifacts
from anneal_runtime.chat import ChatEncoder
from anneal_serving import stages, suites
from anneal_serving.engine import ENGINE_FOLDER
from anneal_serving.tensorrt_llm import Library
from anneal_trainers import score_suites

SUITE = "humaneval"
SETTINGS = Settings(max_tokens=256, first=60)
"""A subset: all 164 take some 20 minutes of two idle cores. Answers repeat the function, so short ones would be cut off."""
TRAINING = {"maxSteps": 20, "globalBatchTokens": 512, "learningRate": 2e-4, "warmupSteps": 2}
"""On the quick start's tasks, some minutes of two cores."""
PIECE = 16
"""Answers that are kept together."""


@dataclass(frozen=True)
class Kept:
    """A model that is loaded when it is first asked something new; its answers are kept in a file, a line each."""

    load: Callable[[], InProcess]
    path: Path

    def __call__(self, requests: Sequence[Request]) -> list[str]:
        """Return the answers, those that are not known asked for in pieces, short prompts first."""
        known = self._known()
        missing = sorted((r for r in requests if _name(r) not in known), key=lambda r: len(repr(r.ask)))
        for piece in _pieces(missing):
            answers = self.load()(piece)
            self._keep({_name(r): answer for r, answer in zip(piece, answers, strict=True)})
            print(f"{self.path.stem[:12]}: {len(piece)} answers more", flush=True)
        known = self._known()
        return [known[_name(request)] for request in requests]

    def _known(self) -> dict[str, str]:
        if not self.path.exists():
            return {}
        return dict(map(json.loads, self.path.read_text().splitlines()))

    def _keep(self, answers: dict[str, str]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as lines:
            lines.write("".join(json.dumps(pair) + "\n" for pair in answers.items()))


def _name(request: Request) -> str:
    return hashlib.sha256(repr(request).encode()).hexdigest()


def _pieces(requests: Sequence[Request]) -> Iterator[list[Request]]:
    left = iter(requests)
    while piece := list(itertools.islice(left, PIECE)):
        yield piece


def scored(name: str, uri: str, load: Callable[[], InProcess]) -> SuiteResult:
    """Return what the model that lies at `uri` scores."""
    digest = artifacts.identity(uri).removeprefix("sha256:")
    kept = Kept(load, smollm2.CACHE / "answers" / f"{digest}.jsonl")
    return scoring.evaluate(files.read(SUITE), name, kept, SETTINGS, Here())


def published_base() -> SuiteResult:
    """Return what the base model scores."""
    folder, _ = smollm2.base_and_texts()
    return scored(
        "as published",
        f"file://{folder}",
        lambda: score_suites.held(folder, ChatEncoder.from_pretrained_folder(folder)),
    )


def fine_tuned(model: str) -> SuiteResult:
    """Return what the exported model scores."""
    return scored("fine-tuned", model, lambda: score_suites.load(Path(model.removeprefix("file://"))))


def four_bits(model: str, method: str) -> SuiteResult:
    """Return what the engine of the exported model in INT4 scores; stages that are published are not run again."""
    limits = {"maxInputLength": 768, "maxSequenceLength": 1024}
    config = deployed.planned(model, method, f"file://{smollm2.CACHE}/store", limits)
    deployed.compiled(config)
    uri = stages.uri_of(config, "engine")

    def load() -> InProcess:
        folder, manifest = artifacts.open_artifact(uri, stages.CACHE)
        library = Library(folder / ENGINE_FOLDER, config.spec.engine)
        run = suites.engine_answers(config, folder, manifest, library)
        return InProcess(ChatEncoder.load(folder), run, config.spec.engine.max_sequence_length)

    return scored(f"fine-tuned, INT4 engine by {method}", uri, load)


def score(result: SuiteResult) -> Figure:
    """Return pass@1 with the count behind it and its interval."""
    found, passed = result.scores[0], sum(s.score for p in result.problems for s in p.samples)
    told = f"{passed:.0f} of {found.problems} problems; 95%: {100 * found.low:.1f} to {100 * found.high:.1f}"
    asked = f"greedy, {result.settings.max_tokens} tokens"
    return Figure(f"HumanEval pass@1, {result.model} ({asked}; {told})", 100 * found.value, "%")


def states(result: SuiteResult) -> str:
    """Return how many answers ended in which way."""
    counted: dict[str, int] = {}
    for sample in (sample for problem in result.problems for sample in problem.samples):
        counted[sample.state] = counted.get(sample.state, 0) + 1
    return ", ".join(f"{count} {state}" for state, count in sorted(counted.items()))


def difference(first: SuiteResult, second: SuiteResult) -> Figure:
    """Return what a paired test says of two models."""
    found = comparison.compare(first, second)
    points = found.difference
    told = (
        f"{found.only_first} solved by the first alone, {found.only_second} by the second alone; "
        f"95%: {100 * points.low:+.1f} to {100 * points.high:+.1f}; McNemar p = {found.p_value:.2g}: {found.decision}"
    )
    return Figure(f"{first.model}, then {second.model} ({told})", 100 * points.value, "points")


def main() -> None:
    """Score what is not scored, and record."""
    base, model = published_base(), smollm2.exported(TRAINING)
    tuned, awq, rounded = fine_tuned(model), four_bits(model, "awq"), four_bits(model, "rtn")
    for result in (base, tuned, awq, rounded):
        print(f"{result.model}: {states(result)}; isolation {result.isolation}", flush=True)
    compared = [difference(*pair) for pair in ((base, tuned), (tuned, awq), (tuned, rounded), (base, awq))]
    record("scores", [*map(score, (base, tuned, awq, rounded)), *compared])


if __name__ == "__main__":
    os.environ.setdefault(ENV_TERMINATION_LOG, "/dev/null")
    main()
