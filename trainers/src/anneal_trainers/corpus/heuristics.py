"""Which files of source code are not worth learning from: the rules of OpenCoder (arXiv 2411.04905, appendix A),
of StarCoder2 (arXiv 2402.19173, section 2) and of the RefinedWeb and Gopher papers they take over.

A rule is a measure and the range it has to stay in; the first that fires names the reason.
"""

import ast
import re
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

INF = float("inf")
_WORD = re.compile(r"\w+")
_ENTRY = re.compile(r"\b(?:to[ _]?do|fixme)\b", re.IGNORECASE)
_GENERATED = re.compile(
    r"auto[- ]?generated|generated (?:by|from|file|code)|do not (?:edit|modify)|@generated", re.IGNORECASE
)
_LITERAL = re.compile(r"\"[^\"\n]{21,}\"|'[^'\n]{21,}'")
_HEX = re.compile(r"\b0x[0-9a-fA-F]+\b|\\x[0-9a-fA-F]{2}")
_BLOB = re.compile(r"[A-Za-z0-9+/=]{64,}")
_TAG = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)
_LINE_COMMENTS = {
    **dict.fromkeys(
        ("python", "shell", "ruby", "perl", "r", "yaml", "toml", "makefile", "cmake", "elixir"), "#"
    ),
    **dict.fromkeys(("sql", "haskell", "lua", "vhdl"), "--"),
    **dict.fromkeys(("clojure", "assembly"), ";"),
    **dict.fromkeys(("tex", "erlang"), "%"),
}
_PROSE = frozenset({"markdown", "restructuredtext", "tex"})
_MARKUP = frozenset({"html", "xml", "vue"})
_DATA = frozenset({"json", "yaml", "toml"})


@dataclass(frozen=True)
class Source:
    """A file and what several rules measure of it; `language` as `languages.language` names it, or empty."""

    text: str
    language: str

    @cached_property
    def lines(self) -> list[str]:
        """Its lines."""
        return self.text.split("\n")

    @cached_property
    def words(self) -> list[str]:
        """Its words: runs of letters, digits and underscores."""
        return _WORD.findall(self.text)

    @cached_property
    def size(self) -> int:
        """Its characters, at least one."""
        return max(1, len(self.text))

    def share(self, of: Callable[[str], bool]) -> float:
        """Return the share of lines for which `of` holds."""
        return sum(map(of, self.lines)) / len(self.lines)


@dataclass(frozen=True)
class Rule:
    """`measure` has to be within least and most; applies to `only` those languages, or to all but `never`."""

    reason: str
    measure: Callable[[Source], float]
    least: float = -INF
    most: float = INF
    only: frozenset[str] | None = None
    never: frozenset[str] = frozenset()

    def fires(self, source: Source) -> bool:
        """Whether a file breaks the rule."""
        if source.language in self.never or (self.only is not None and source.language not in self.only):
            return False
        return not self.least <= self.measure(source) <= self.most


def repeated(words: int) -> Callable[[Source], float]:
    """Return a measure: the share of characters that the most frequent n-gram of `words` words makes up."""

    def measure(source: Source) -> float:
        grams = Counter(zip(*(source.words[place:] for place in range(words)), strict=False))
        if not grams:
            return 0.0
        gram, count = max(grams.items(), key=lambda item: (item[1], item[0]))
        return count * sum(map(len, gram)) / source.size if count > 1 else 0.0

    return measure


def _characters(test: Callable[[str], bool]) -> Callable[[Source], float]:
    return lambda source: sum(n for c, n in Counter(source.text).items() if test(c)) / source.size


def _longest_line(source: Source) -> float:
    return max(map(len, source.lines))


def _mean_line(source: Source) -> float:
    return len(source.text) / len(source.lines)


def _comments(source: Source) -> float:
    """Return the share of characters in comments of whole lines."""
    marker = _LINE_COMMENTS.get(source.language, "//")
    count, inside = 0, False
    for line in source.lines:
        bare = line.strip()
        inside = inside or (marker == "//" and bare.startswith("/*"))
        count += len(line) * (inside or bare.startswith(marker))
        inside = inside and "*/" not in bare
    return count / source.size


def _duplicate_lines(source: Source) -> float:
    lines = [line for line in map(str.strip, source.lines) if line]
    return 1 - len(set(lines)) / len(lines) if lines else 0.0


def _matched(pattern: re.Pattern[str]) -> Callable[[Source], float]:
    return lambda source: sum(len(match[0]) for match in pattern.finditer(source.text)) / source.size


def _blob(source: Source) -> float:
    """Return 1 for encoded data of more than 1024 characters in one run or of half the file."""
    runs = [len(match[0]) for match in _BLOB.finditer(source.text)]
    return float(max(runs, default=0) > 1024 or sum(runs) > source.size / 2)


def _parses(source: Source) -> float:
    """Return 1 for Python that parses; what is too deep to parse does not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(source.text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return 0.0
    return 1.0


def _visible(source: Source) -> float:
    return len("".join(_TAG.sub("", source.text).split()))


def _begins(*words: str) -> Callable[[Source], float]:
    return lambda source: source.share(lambda line: line.lstrip().startswith(words))


RULES = (
    Rule("tooLarge", lambda s: len(s.text.encode()), most=3_000_000),
    Rule("fewCharacters", lambda s: len(s.text), least=50),
    Rule("autoGenerated", lambda s: _GENERATED.search(s.text[:200]) is not None, most=0),
    Rule("dataFileSize", lambda s: len(s.text), least=50, most=5000, only=_DATA),
    Rule("fewWords", lambda s: len(s.words), least=30, never=_DATA),
    Rule("lines", lambda s: len(s.lines), least=10, most=100_000, never=_DATA),
    Rule("longLine", _longest_line, most=1000, never=_PROSE),
    Rule("meanLine", _mean_line, least=5, most=100, never=_PROSE),
    Rule("replacementCharacters", _characters(lambda c: c == "\ufffd"), most=0.01),
    Rule("xml", lambda s: s.text.lstrip("\ufeff \n\r\t").startswith("<?xml"), most=0, never=_MARKUP),
    Rule("fewLetters", _characters(str.isalpha), least=0.5, never=_DATA),
    Rule("manyDigits", _characters(str.isdigit), most=0.3, only=frozenset({"sql"})),
    Rule("manyDigits", _characters(str.isdigit), most=0.2, never=_DATA | {"sql"}),
    Rule("manySpaces", _characters(str.isspace), most=0.5),
    Rule("manyComments", _comments, most=0.8, never=_PROSE | _MARKUP),
    Rule("encodedData", _blob, most=0),
    Rule("longStrings", _matched(_LITERAL), most=0.6, never=_DATA | _PROSE),
    Rule("hexWords", _matched(_HEX), most=0.4),
    Rule("duplicateLines", _duplicate_lines, most=0.7, never=_DATA),
    Rule("unfinished", lambda s: s.share(lambda line: _ENTRY.search(line) is not None), most=0.01),
    Rule("manyAsserts", lambda s: s.share(lambda line: "assert" in line), most=0.4),
    Rule("repeatedWords", repeated(2), most=0.2, never=_DATA),
    Rule("repeatedWords", repeated(3), most=0.18, never=_DATA),
    Rule("repeatedWords", repeated(4), most=0.16, never=_DATA),
    Rule("doesNotParse", _parses, least=1, only=frozenset({"python"})),
    Rule("manyImports", _begins("import ", "from "), most=0.3, only=frozenset({"python"})),
    Rule(
        "manyPasses",
        lambda s: s.share(lambda line: line.strip() == "pass"),
        most=0.05,
        only=frozenset({"python"}),
    ),
    Rule("manyPrints", _begins("print(", "print "), most=0.4, only=frozenset({"python"})),
    Rule("littleVisibleText", _visible, least=100, only=frozenset({"html"})),
    Rule("littleVisibleText", lambda s: _visible(s) / s.size, least=0.2, only=frozenset({"html"})),
)


def reason(text: str, language: str) -> str:
    """Return why a file is left out, or nothing where it may stay."""
    source = Source(text, language)
    return next((rule.reason for rule in RULES if rule.fires(source)), "")
