"""Near-duplicates: planted mutants are found, others are not, whatever the order."""

import hashlib
import random
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from anneal_trainers.corpus import near
from anneal_trainers.corpus.shingles import shingles


def document(number: int, words: int = 150) -> list[str]:
    rng = random.Random(number)
    return [f"w{rng.randrange(2000)}" for _ in range(words)]


def mutant(words: list[str], changes: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    changed = list(words)
    for place in rng.sample(range(len(words)), changes):
        changed[place] = f"new{rng.randrange(10**6)}"
    return changed


def similarity(one: str, other: str) -> float:
    first, second = (set(shingles([text], near.WIDTH).values.tolist()) for text in (one, other))
    return len(first & second) / len(first | second)


def digests(texts: list[str]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(b"".join(hashlib.sha256(t.encode()).digest() for t in texts), np.uint8).reshape(
        -1, 32
    )


def labels_of(parts: list[list[str]], folder: Path, threshold: float = near.THRESHOLD) -> list[int]:
    """Return the labels of texts that are collected in parts."""
    folders = []
    for part in parts:
        folders.append(folder / f"grams-{len(list(folder.iterdir()))}")
        folders[-1].mkdir()
        collector = near.Collector(folders[-1])
        for text in part:
            collector.add(text)
        collector.close()
    texts = [text for part in parts for text in part]
    return near.groups(folders, np.arange(len(texts)), digests(texts), threshold).tolist()


def groups(texts: list[str], folder: Path, threshold: float = near.THRESHOLD) -> list[set[str]]:
    labels = labels_of([texts], folder, threshold)
    found: dict[int, set[str]] = {}
    for text, label in zip(texts, labels, strict=True):
        found.setdefault(label, {texts[label]}).add(text)
    return sorted((group for group in found.values()), key=min)


def test_groups_are_the_pairs_that_are_similar_and_no_others(tmp_path: Path) -> None:
    originals = [" ".join(document(number)) for number in range(120)]
    mutants = [" ".join(mutant(text.split(), i % 9, i)) for i, text in enumerate(originals)]
    expected = sum(similarity(*pair) < near.THRESHOLD for pair in zip(originals, mutants, strict=True))
    assert 20 < expected < 100
    found = groups([*originals, *mutants], tmp_path)
    # Mutants of no change are the same text and so the same document here.
    assert len(found) == len(originals) + expected


def test_the_order_of_documents_changes_nothing(tmp_path: Path) -> None:
    texts = [" ".join(mutant(document(n // 4), 3, n)) for n in range(80)]
    shuffled = random.Random(1).sample(texts, len(texts))
    assert groups(texts, tmp_path) == groups(shuffled, tmp_path)


def test_candidates_below_the_threshold_are_told_apart_exactly(tmp_path: Path) -> None:
    one = " ".join(document(1))
    other = " ".join(mutant(document(1), 4, 1))
    exact = similarity(one, other)
    assert len(groups([one, other], tmp_path, exact)) == 1
    assert len(groups([one, other], tmp_path, exact + 1e-9)) == 2


def test_many_copies_are_one_group_and_documents_without_words_are_none(tmp_path: Path) -> None:
    copies = [" ".join(document(3)) + "!" * n for n in range(60)]
    assert len(groups([*copies, "", "...", "?!"], tmp_path)) == 4


def test_documents_of_few_words_are_near_only_when_equal(tmp_path: Path) -> None:
    assert len(groups(["add 1 2", "add, 1, 2", "add 1 3"], tmp_path)) == 2


def test_nothing_gives_nothing(tmp_path: Path) -> None:
    assert labels_of([[]], tmp_path) == []


def test_in_how_many_parts_documents_are_collected_changes_nothing(tmp_path: Path) -> None:
    texts = [" ".join(mutant(document(n // 4), 3, n)) for n in range(40)]
    parts = [texts[:7], [], texts[7:8], texts[8:]]
    assert labels_of(parts, tmp_path) == labels_of([texts], tmp_path)
    few = [3, 9, 8, 31]  # of documents that are collected twice, one is asked for
    whole = labels_of([[texts[n] for n in few]], tmp_path)
    folders = sorted(tmp_path.glob("grams-*"))[:4]
    found = near.groups(folders, np.asarray(few), digests([texts[n] for n in few]))
    assert found.tolist() == whole


@pytest.mark.parametrize(
    ("one", "other", "expected"), [([1, 2, 3], [2, 3, 4], 0.5), ([1], [2], 0), ([5], [5], 1)]
)
def test_jaccard(one: list[int], other: list[int], expected: float) -> None:
    assert near.jaccard(np.asarray(one, np.uint32), np.asarray(other, np.uint32)) == expected
