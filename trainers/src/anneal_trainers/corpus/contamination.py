"""Contamination: training rows that hold what an evaluation suite asks.

A row that shares ten words in a row with a problem is left out (OpenCoder, arXiv 2411.04905, section 3; DeepSeek-Coder,
arXiv 2401.14196, section 2.3). Two weaker signs are reported and drop nothing: how many of a problem's
20-grams of tokens a row has when all identifiers look alike, and a definition of the function that a problem asks for.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from anneal_trainers.corpus.shingles import shingles

WORDS = 10
TOKENS = 20
LEAST_SCORE = 0.5
"""Share of a problem's normalised n-grams from which on it is worth reporting."""
_WORD = re.compile(r"[0-9A-Za-z_]+|[^\x00-\x7f]")
_TOKEN = re.compile(r"[A-Za-z_]\w*|\d+|[^\s\w]")
_DEFINED = re.compile(r"(?:\b(?:def|func|fn|function|class)\s+|\b(?:const|let|var)\s+)([A-Za-z_]\w*)")
_KEYWORD = re.compile(
    r"and|as|assert|async|await|bool|break|case|catch|char|class|const|continue|def|del|do|double|elif"
    r"|else|enum|except|extends|false|final|finally|float|fn|for|from|func|function|if|impl|implements"
    r"|import|in|int|interface|is|lambda|let|long|match|mut|namespace|new|nil|none|not|null|or|package"
    r"|pass|private|protected|pub|public|raise|return|self|static|string|struct|super|switch|this"
    r"|throw|throws|trait|true|try|type|typedef|use|using|var|void|while|with|yield",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Problem:
    """One problem of a suite: its texts (what is asked, and the reference answer), and what it wants defined."""

    suite: str
    name: str
    texts: tuple[str, ...]
    entry_point: str = ""


@dataclass(frozen=True)
class Hit:
    """What a row shares with a problem: `shared` words drop it; `score` and `defines` are only told."""

    suite: str
    problem: str
    shared: str = ""
    score: float = 0.0
    defines: str = ""


@dataclass(frozen=True)
class _Grams:
    """Hashes of n-grams, sorted, and which problem each is of."""

    values: npt.NDArray[np.uint32]
    problems: npt.NDArray[np.int64]

    def problems_in(self, values: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
        """Return the problem of every gram of ours that is among `values`."""
        return self.problems[np.isin(self.values, values)]


@dataclass
class Detector:
    """Knows the problems of the chosen suites."""

    problems: Sequence[Problem]
    _words: _Grams = field(init=False)
    _tokens: _Grams = field(init=False)
    _texts: dict[str, int] = field(init=False)
    _entries: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self._texts = {
            gram: number
            for number, problem in reversed(list(enumerate(self.problems)))
            for text in problem.texts
            for gram in _grams(text)
        }
        self._words = _collected([" ".join(problem.texts).lower() for problem in self.problems], WORDS)
        self._tokens = _collected([_shape(" ".join(p.texts)) for p in self.problems], TOKENS)
        self._entries = {p.entry_point: n for n, p in enumerate(self.problems) if p.entry_point}
        self._sizes = np.maximum(1, np.bincount(self._tokens.problems, minlength=len(self.problems)))

    def hit(self, text: str) -> Hit | None:
        """Return what `text` shares with a problem, the strongest sign of the one it shares most with."""
        found = self._shared(text)
        if found:
            shared, number = found
            return self._hit(number, shared=shared)
        return self._likeness(text)

    def _shared(self, text: str) -> tuple[str, int] | None:
        """Return the first ten words that the text shares with a problem, and which."""
        hashes = shingles([text.lower()], WORDS).values
        if not len(self._words.problems_in(hashes)):
            return None
        return next(((gram, self._texts[gram]) for gram in _grams(text) if gram in self._texts), None)

    def _likeness(self, text: str) -> Hit | None:
        grams = shingles([_shape(text)], TOKENS).values
        found = np.bincount(self._tokens.problems_in(grams), minlength=len(self.problems))
        scores = found / self._sizes
        best = int(scores.argmax()) if len(scores) else 0
        if len(scores) and scores[best] >= LEAST_SCORE:
            return self._hit(best, score=round(float(scores[best]), 4))
        defined = next((name for name in _DEFINED.findall(text) if name in self._entries), "")
        return self._hit(self._entries[defined], defines=defined) if defined else None

    def _hit(self, number: int, shared: str = "", score: float = 0.0, defines: str = "") -> Hit:
        problem = self.problems[number]
        return Hit(problem.suite, problem.name, shared, score, defines)


def _grams(text: str) -> Iterable[str]:
    """Yield what counts as ten words in a row; a problem of fewer words has none."""
    words = _WORD.findall(text.lower())
    return (" ".join(words[place : place + WORDS]) for place in range(len(words) - WORDS + 1))


def _shape(text: str) -> str:
    """Return a text's tokens as words, all identifiers and all numbers alike."""
    return " ".join(map(_alike, _TOKEN.findall(text)))


def _alike(token: str) -> str:
    if token[0].isdigit():
        return "0"
    if token[0] == "_" or token[0].isalpha():
        return token if _KEYWORD.fullmatch(token) else "v"
    return f"p{ord(token):x}"


def _collected(texts: Sequence[str], width: int) -> _Grams:
    """Return the n-grams of texts that are as long, each gram once a text."""
    found = [np.unique(shingles([text], width).values) if _long(text, width) else _NONE for text in texts]
    values = np.concatenate([_NONE, *found])
    problems = np.repeat(np.arange(len(texts)), [len(each) for each in found])
    order = np.argsort(values, kind="stable")
    return _Grams(values[order], problems[order])


def _long(text: str, width: int) -> bool:
    return len(_WORD.findall(text)) >= width


_NONE = np.zeros(0, np.uint32)
