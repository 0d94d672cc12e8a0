"""N-grams of words, hashed: equal for equal words, whatever lies around them."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anneal_trainers.corpus import shingles as module
from anneal_trainers.corpus.shingles import shingles

TEXTS = st.text(st.sampled_from("ab_1 .\n é日\U0001f600") | st.characters(codec="utf-8"), max_size=60)


def grams(text: str, width: int) -> list[tuple[str, ...]]:
    """Return what a plain implementation finds."""
    words = re.findall(r"[0-9A-Za-z_]+|[^\x00-\x7f]", text)
    if 0 < len(words) < width:
        return [tuple(words)]
    return [tuple(words[i : i + width]) for i in range(len(words) - width + 1)]


@given(st.lists(TEXTS, min_size=1, max_size=5), st.integers(1, 6))
def test_hashes_stand_for_the_grams_of_each_text(texts: list[str], width: int) -> None:
    found = shingles(texts, width)
    expected = [grams(text, width) for text in texts]
    assert np.diff(found.starts).tolist() == [len(of_text) for of_text in expected]
    by_gram = list(
        zip([gram for of_text in expected for gram in of_text], found.values.tolist(), strict=True)
    )
    assert len(set(by_gram)) == len({gram for gram, _ in by_gram}) == len({value for _, value in by_gram})


def test_hashes_do_not_depend_on_the_machine() -> None:
    assert shingles(["def f(a, b): return a"], 5).values.tolist() == [136663513, 2310238488]


def test_words_that_differ_in_one_byte_have_other_hashes() -> None:
    words = [f"{'a' * place}{letter}{'b' * (24 - place)}" for place in range(25) for letter in "cdefgh"]
    assert len(set(shingles(words, 5).values.tolist())) == len(words)


def test_a_text_longer_than_a_block_has_the_same_grams(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(f"word{i} longer_identifier_{i}(日本)" for i in range(50))
    whole = shingles([text], 5).values
    monkeypatch.setattr(module, "BLOCK", 64)
    assert shingles([text], 5).values.tolist() == whole.tolist()


def test_one_word_without_end_is_cut_and_never_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 64)
    assert len(shingles(["é" + "x" * 1000 + "é" * 100], 5).values) > 0
