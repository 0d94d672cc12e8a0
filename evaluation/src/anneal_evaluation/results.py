"""Results of a suite: every sample, its verdict, and the scores; JSON is what is kept, all else is made from it."""

from typing import Literal

from pydantic import Field

from anneal_api.base import Model
from anneal_evaluation.sandbox.runner import State


class Settings(Model):
    """All that a score depends on besides model and suite."""

    samples: int = Field(1, ge=1, le=1000, description="Answers a problem.")
    temperature: float = Field(0.0, ge=0, le=2, description="0 is greedy.")
    seed: int = 0
    max_tokens: int = Field(512, ge=1, le=32_768)
    ks: tuple[int, ...] = (1,)
    first: int | None = Field(None, ge=1, description="Only so many problems, from the first; unset is all.")
    wording: int = Field(0, description="Version of how problems are put.")
    as_text: bool = Field(
        False,
        description="Whether what is no gap or line was put as a text to go on from, in place of a chat.",
    )
    harness: str = Field("", description="Tasks of lm-eval: its version, and how they were put.")


class Sample(Model):
    """One answer and what became of it."""

    answer: str
    state: State | Literal["scored"]
    score: float
    detail: str = ""
    seconds: float = 0.0


class ProblemResult(Model):
    """One problem's samples."""

    name: str
    task: str
    language: str
    wanted: str = Field("", description="The right answer, where no test tells.")
    kept: list[str] = Field(description="What of each answer was judged.")
    samples: list[Sample]


class Score(Model):
    """One figure with its 95% interval."""

    name: str = Field(
        description="pass@1, exact match, edit similarity, BLEU-4, F1; with the language where several."
    )
    value: float
    low: float
    high: float
    problems: int


class SuiteResult(Model):
    """One run of one suite."""

    version: Literal[1] = 1
    suite: str
    digest: str
    model: str
    settings: Settings
    isolation: str = Field("", description="Weakest level that code was run at; empty where none was.")
    trust: str = Field(
        "", description="process: tests ran apart from the program; program: within it, for some language."
    )
    invalid: list[str] = Field(
        [], description="Problems whose own reference solution fails here; not scored."
    )
    problems: list[ProblemResult]
    scores: list[Score]


def first_score(result: SuiteResult) -> Score:
    """Return the figure that stands for a suite: the first, which is pass@1 where code is run."""
    return result.scores[0]
