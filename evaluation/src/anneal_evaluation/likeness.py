"""How like an answer is to the one that is wanted, where no test can tell."""

import math
import re
from collections import Counter
from collections.abc import Sequence

ORDERS = 4
_TOKEN = re.compile(r"\w+|[^\s\w]")


def exact(answer: str, wanted: str) -> float:
    """Return 1 where both are the same but for white space at the ends of lines and of the text."""
    return float(_trimmed(answer) == _trimmed(wanted))


def _trimmed(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def edit_similarity(answer: str, wanted: str) -> float:
    """Return 1 - distance / longer length, the distance Levenshtein's over characters (CodeXGLUE, arXiv 2102.04664)."""
    answer, wanted = answer.strip(), wanted.strip()
    longest = max(len(answer), len(wanted))
    return 1.0 - _distance(answer, wanted) / longest if longest else 1.0


def _distance(first: str, second: str) -> int:
    row = list(range(len(second) + 1))
    for number, character in enumerate(first, 1):
        diagonal, row[0] = row[0], number
        for place, other in enumerate(second, 1):
            diagonal, row[place] = (
                row[place],
                min(row[place] + 1, row[place - 1] + 1, diagonal + (character != other)),
            )
    return row[-1]


def bleu(answer: str, wanted: str) -> float:
    """Return sentence BLEU-4 with one added to the counts of the orders above one (Lin and Och 2004)."""
    given, right = _TOKEN.findall(answer), _TOKEN.findall(wanted)
    if not given or not right:
        return float(given == right)
    logs = [_log_precision(given, right, order) for order in range(1, ORDERS + 1)]
    brevity = min(0.0, 1.0 - len(right) / len(given))
    return math.exp(brevity + math.fsum(logs) / ORDERS) if min(logs) > -math.inf else 0.0


def _log_precision(given: Sequence[str], right: Sequence[str], order: int) -> float:
    found, wanted = _grams(given, order), _grams(right, order)
    shared, smooth = sum((found & wanted).values()), int(order > 1)
    precision = (shared + smooth) / (sum(found.values()) + smooth)
    return math.log(precision) if precision else -math.inf


def _grams(tokens: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[start:] for start in range(order)), strict=False))


def f1(answers: Sequence[bool | None], wanted: Sequence[bool]) -> float:
    """Return F1 of the positive class; an answer that is neither (None) counts as wrong."""
    true = sum(given is True and right for given, right in zip(answers, wanted, strict=True))
    false = sum(given is True and not right for given, right in zip(answers, wanted, strict=True))
    missed = sum(given is not True and right for given, right in zip(answers, wanted, strict=True))
    return 2 * true / (2 * true + false + missed) if true else 0.0
