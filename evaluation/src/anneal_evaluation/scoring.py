"""One suite on one model: reference solutions first, then answers, verdicts, scores."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import fmean

from tqdm import tqdm

from anneal_evaluation import likeness, statistics
from anneal_evaluation.judges import Judges
from anneal_evaluation.judging import Case
from anneal_evaluation.results import ProblemResult, Sample, Score, Settings, SuiteResult
from anneal_evaluation.sandbox.confine import LEVELS
from anneal_evaluation.sandbox.runner import Verdict
from anneal_evaluation.statistics import Interval
from anneal_evaluation.suites import asking
from anneal_evaluation.suites.files import Suite
from anneal_evaluation.suites.problems import Ask, Problem
from anneal_evaluation.suites.problems import judged as judged_in
from anneal_runtime.errors import Refused

MOST_INVALID = 0.1
"""Share of problems whose own solution may fail; more than that is a toolchain that does not work."""

_METRICS: dict[str, tuple[str, Callable[[str, str], float]]] = {
    "infill": ("exact match", likeness.exact),
    "line": ("edit similarity", likeness.edit_similarity),
    "text": ("BLEU-4", likeness.bleu),
    "defect": ("F1", lambda answer, wanted: float(answer == wanted)),
}


@dataclass(frozen=True)
class Request:
    """One answer that is wanted of a model."""

    ask: Ask
    max_tokens: int
    temperature: float
    seed: int


Generate = Callable[[Sequence[Request]], Sequence[str]]
"""A model: answers in the order of the requests."""


def evaluate(
    suite: Suite, model: str, generate: Generate, settings: Settings, judges: Judges, workers: int = 2
) -> SuiteResult:
    """Return the results of a suite.

    Raises:
        Refused: a language, the isolation that is required, or the reference solutions do not work here.
    """
    settings = settings.model_copy(update={"wording": asking.VERSION})
    chosen = suite.problems[: settings.first]
    judges.check(judged_in(chosen))
    with ThreadPoolExecutor(workers) as pool:
        invalid = _invalid(chosen, judges, pool)
        problems = [problem for problem in chosen if problem.name not in invalid]
        answers = list(generate([r for problem in problems for r in _requests(problem, settings)]))
        pairs = list(zip(_repeated(problems, settings), answers, strict=True))
        found = pool.map(lambda pair: _judged(judges, *pair), pairs)
        judged = list(tqdm(found, "answers judged", len(pairs), disable=None))
    results, count = [], settings.samples
    for number, problem in enumerate(problems):
        part = slice(number * count, (number + 1) * count)
        results.append(_result(problem, answers[part], [sample for sample, _ in judged[part]]))
    return SuiteResult(
        suite=suite.name,
        digest=suite.digest,
        model=model,
        settings=settings,
        isolation=min((level for _, level in judged if level), key=LEVELS.index, default=""),
        trust=_trust(problems),
        invalid=sorted(invalid),
        problems=results,
        scores=scores(results, settings),
    )


def _trust(problems: Iterable[Problem]) -> str:
    run = judged_in(problems)
    return "" if not run else "process" if run == ["python"] else "program"


def _invalid(problems: Sequence[Problem], judges: Judges, pool: ThreadPoolExecutor) -> set[str]:
    """Return the problems whose own solution does not pass; those without one are taken on trust."""
    known = [problem for problem in problems if problem.task == "code" and problem.wanted]
    found = pool.map(lambda problem: _run(judges, problem, problem.wanted), known)
    verdicts = list(tqdm(found, "reference solutions judged", len(known), disable=None))
    failed = {p.name: v for p, v in zip(known, verdicts, strict=True) if not v.passed}
    if len(failed) > MOST_INVALID * len(known):
        name, verdict = next(iter(failed.items()))
        raise Refused(
            "ReferenceFails",
            f"{len(failed)} of {len(known)} reference solutions fail here, the first {name}: {verdict.state}, "
            f"{verdict.detail}; correct the suite's file or the toolchain",
        )
    return set(failed)


def _requests(problem: Problem, settings: Settings) -> Iterable[Request]:
    for number in range(settings.samples):
        yield Request(
            asking.ask(problem, settings.as_text),
            settings.max_tokens,
            settings.temperature,
            settings.seed + number,
        )


def _repeated(problems: Sequence[Problem], settings: Settings) -> Iterable[Problem]:
    return (problem for problem in problems for _ in range(settings.samples))


def _judged(judges: Judges, problem: Problem, answer: str) -> tuple[Sample, str]:
    kept = asking.kept(problem, answer)
    if problem.task != "code":
        score = _METRICS[problem.task][1](kept, problem.wanted)
        return Sample(answer=answer, state="scored", score=score), ""
    verdict = _run(judges, problem, kept)
    sample = Sample(
        answer=answer,
        state=verdict.state,
        score=float(verdict.passed),
        detail=verdict.detail,
        seconds=round(verdict.wall_seconds, 3),
    )
    return sample, verdict.level


def _run(judges: Judges, problem: Problem, program: str) -> Verdict:
    return judges.judge(Case(problem.language, program, problem.tests, problem.asked, problem.trusted))


def _result(problem: Problem, answers: Sequence[str], samples: list[Sample]) -> ProblemResult:
    kept = [asking.kept(problem, answer) for answer in answers]
    return ProblemResult(
        name=problem.name,
        task=problem.task,
        language=problem.language,
        wanted="" if problem.task == "code" else problem.wanted,
        kept=kept,
        samples=samples,
    )


def scores(results: Sequence[ProblemResult], settings: Settings) -> list[Score]:
    """Return the figures of a suite: of each kind of problem and, where there are several, of each language.

    A sample that the sandbox itself failed on (`error`) counts neither way; it is in the results.
    """
    groups: dict[tuple[str, str], list[ProblemResult]] = defaultdict(list)
    for result in results:
        groups[result.task, result.language].append(result)
    several = len({language for _, language in groups}) > 1
    return [
        score
        for (task, language), group in groups.items()
        for score in _scores(task, f" {language}" if several else "", group, settings)
    ]


def _scores(task: str, suffix: str, group: Sequence[ProblemResult], settings: Settings) -> list[Score]:
    if task == "code":
        return [_passes(f"pass@{k}{suffix}", group, k) for k in settings.ks]
    name = _METRICS[task][0]
    if task == "defect":
        return [_f1(f"{name}{suffix}", group)]
    means = [sum(s.score for s in result.samples) / len(result.samples) for result in group]
    return [_score(f"{name}{suffix}", statistics.bootstrap(means, fmean), len(group))]


def _passes(name: str, group: Sequence[ProblemResult], k: int) -> Score:
    counted = [[s.score for s in result.samples if s.state != "error"] for result in group]
    estimates = [statistics.pass_at_k(len(each), int(sum(each)), k) for each in counted if len(each) >= k]
    single = all(len(each) == 1 for each in counted)
    if not estimates:
        return Score(name=name, value=0.0, low=0.0, high=1.0, problems=0)
    found = (
        statistics.wilson(int(sum(estimates)), len(estimates))
        if single
        else statistics.bootstrap(estimates, fmean)
    )
    return _score(name, found, len(estimates))


def _f1(name: str, group: Sequence[ProblemResult]) -> Score:
    said = {"yes": True, "no": False}
    pairs = [(said.get(kept), result.wanted == "yes") for result in group for kept in result.kept]
    found = statistics.bootstrap(pairs, lambda drawn: likeness.f1(*zip(*drawn, strict=True)))
    return _score(name, found, len(group))


def _score(name: str, found: Interval, problems: int) -> Score:
    return Score(name=name, value=found.value, low=found.low, high=found.high, problems=problems)
