"""What near-duplicates are looked for in: real Python files, and mutants of some whose similarity is known exactly."""

import random
import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path

WIDTH = 5
LEAST_WORDS = 200
EDGES = (0.80, 0.85, 0.90, 1.0)
_WORD = re.compile(r"[0-9A-Za-z_]+|[^\x00-\x7f]")


@dataclass(frozen=True)
class Planted:
    """Document `original` has a mutant `mutant` with this exact Jaccard similarity of 5-grams."""

    original: int
    mutant: int
    similarity: float


def files(megabytes: float) -> list[str]:
    """Return different Python files of the interpreter and of what is installed, up to so many megabytes."""
    roots = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    texts: dict[str, None] = {}
    size = 0
    for path in sorted((path for root in roots for path in root.rglob("*.py")), key=lambda path: path.name):
        content = path.read_bytes()
        if b"\0" in content or not content.isascii() or len(content) < 1000:
            continue
        size += len(content) * (content.decode() not in texts)
        texts[content.decode()] = None
        if size >= megabytes * 1e6:
            break
    return list(texts)


def with_mutants(texts: list[str], each: int, seed: int = 0) -> tuple[list[str], list[Planted]]:
    """Return texts and `each` mutants for every range of similarity between EDGES, in random order."""
    rng = random.Random(seed)
    originals = [number for number, text in enumerate(texts) if len(_WORD.findall(text)) >= LEAST_WORDS]
    chosen = rng.sample(originals, min(len(originals), each * (len(EDGES) - 1)))
    made = [
        (number, *_mutant(texts[number], EDGES[i % 3], EDGES[i % 3 + 1], rng))
        for i, number in enumerate(chosen)
    ]
    documents = [*texts, *(text for _, text, _ in made)]
    order = rng.sample(range(len(documents)), len(documents))
    place = {number: position for position, number in enumerate(order)}
    planted = [Planted(place[number], place[len(texts) + i], j) for i, (number, _, j) in enumerate(made)]
    return [documents[number] for number in order], planted


def grams(text: str) -> set[tuple[str, ...]]:
    """Return the 5-grams of a text's words, by a plain implementation."""
    words = _WORD.findall(text)
    return {tuple(words[place : place + WIDTH]) for place in range(max(1, len(words) - WIDTH + 1))}


def similarity(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> float:
    """Return the Jaccard similarity of two sets."""
    return len(one & other) / len(one | other)


def _mutant(text: str, least: float, most: float, rng: random.Random) -> tuple[str, float]:
    """Return a text with words renamed until it is as similar to the original as was drawn, and how similar."""
    goal, original = rng.uniform(least, most), grams(text)
    places = [match.span() for match in _WORD.finditer(text)]
    changes: list[tuple[int, int]] = []
    while True:
        changes += rng.sample(places, max(1, round(len(places) * 0.002)))
        changed = _renamed(text, changes)
        if (found := similarity(original, grams(changed))) <= goal or found < least + 0.01:
            return changed, found


def _renamed(text: str, changes: list[tuple[int, int]]) -> str:
    parts, end = [], 0
    for begin, stop in sorted(set(changes)):
        parts += [text[end:begin], f"renamed{begin}"]
        end = stop
    return "".join([*parts, text[end:]])
