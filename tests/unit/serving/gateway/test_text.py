"""Text that arrives token by token equals text decoded at once, and nothing of a stop string is shown."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny_model import write_tiny_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from anneal_serving.gateway.text import Detokenizer, StopFilter, Transcript


def bytes_tokenizer() -> Tokenizer:
    """One token a byte: the worst case for characters of several bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


BYTES = bytes_tokenizer()


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20))
def test_streamed_text_is_the_whole_text(text: str) -> None:
    detokenizer = Detokenizer(BYTES.decode)
    parts = [detokenizer.push([token]) for token in BYTES.encode(text).ids]
    assert "".join(parts) + detokenizer.flush() == text


def test_half_a_character_is_kept_back() -> None:
    detokenizer = Detokenizer(BYTES.decode)
    parts = [detokenizer.push([token]) for token in BYTES.encode("a€b").ids]
    assert parts == ["a", "", "", "€", "b"]


def test_broken_bytes_come_out_at_the_end() -> None:
    detokenizer = Detokenizer(BYTES.decode)
    first = BYTES.encode("€").ids[:2]
    assert detokenizer.push(first) == ""
    assert detokenizer.flush() == "�"


def test_a_words_leading_space_survives() -> None:
    tokenizer = Tokenizer(models.WordLevel({"▁a": 0, "▁b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.Metaspace()
    detokenizer = Detokenizer(tokenizer.decode)
    assert [detokenizer.push([token]) for token in (0, 1, 0)] == ["a", " b", " a"]


def test_an_end_that_may_become_a_stop_string_is_kept_back() -> None:
    stops = StopFilter(["END"])
    assert [stops.push(part) for part in ("go E", "N", "T E", "ND more")] == ["go ", "", "ENT ", ""]
    assert stops.hit
    assert stops.flush() == ""


def test_the_earliest_of_several_stop_strings_wins() -> None:
    stops = StopFilter(["yy", "x"])
    assert stops.push("abxcyy") == "ab"


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab", max_size=30), st.text(alphabet="ab", min_size=1, max_size=3), st.integers(1, 4))
def test_any_cut_into_parts_shows_the_same(text: str, stop: str, size: int) -> None:
    stops = StopFilter([stop])
    parts = [stops.push(text[at : at + size]) for at in range(0, len(text), size)]
    assert "".join(parts) + stops.flush() == text.partition(stop)[0]


def push_all(text: str, limit: int, stops: list[str], eos: bool) -> tuple[str, str | None, int]:
    ids = BYTES.encode(text).ids + [999] * eos
    transcript = Transcript(lambda ids: BYTES.decode([i for i in ids if i != 999]), [999], stops, limit)
    shown = "".join(transcript.push([token]) for token in ids)
    return shown + transcript.end(), transcript.finish, transcript.tokens


@pytest.mark.parametrize(
    ("stops", "eos", "limit", "expected"),
    [
        ([], True, 50, ("héllo", "stop", 7)),
        ([], False, 6, ("héllo", "length", 6)),
        (["ll"], False, 50, ("hé", "stop", 5)),
        (["o!"], True, 50, ("héllo", "stop", 7)),
    ],
)
def test_why_an_answer_ends(stops: list[str], eos: bool, limit: int, expected: tuple[str, str, int]) -> None:
    assert push_all("héllo", limit, stops, eos) == expected


def test_nothing_follows_the_end_token(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(write_tiny_model(tmp_path) / "tokenizer.json"))
    ids = tokenizer.encode("one").ids
    transcript = Transcript(tokenizer.decode, [2], [], 50)
    assert transcript.push([*ids, 2, *ids]) == "one"
    assert transcript.tokens == len(ids) + 1
