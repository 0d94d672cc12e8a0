"""What becomes of a row: pieces, a pair, or nothing for a reason; nothing is lost where nothing should be."""

from typing import Any

import pytest
from byte_encoder import EOS, byte_encoder
from hypothesis import given
from hypothesis import strategies as st

from anneal_api.finetunejob import Data
from anneal_runtime.chat import Encoded
from anneal_trainers.data.formats import Messages, Row
from anneal_trainers.data.units import UnitMaker, content_digest, fit, last_answer

ENCODER = byte_encoder()


def maker(length: int, policy: Any = "truncate") -> UnitMaker:
    return UnitMaker(ENCODER, Data.model_construct(max_length=length, over_length=policy))


def chat(*texts: str) -> Messages:
    return tuple(zip(("user", "assistant") * len(texts), texts, strict=False))


def learned_text(encoded: Encoded) -> str:
    ids = [token for token, learned in zip(encoded.ids, encoded.learned, strict=True) if learned]
    return ENCODER.tokenizer.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize(("policy", "sizes"), [("truncate", [4]), ("drop", []), ("split", [4, 4, 2])])
def test_over_length_rows_follow_the_policy(policy: Any, sizes: list[int]) -> None:
    data = Data.model_construct(max_length=4, over_length=policy)
    encoded = Encoded(list(range(10)), [True] * 10)
    pieces = fit(encoded, data)
    assert [len(piece.ids) for piece in pieces] == sizes
    assert [i for piece in pieces for i in piece.ids] == list(range(sum(sizes)))
    assert fit(Encoded([1, 2], [False, True]), data) == [Encoded([1, 2], [False, True])]


@given(st.text(min_size=1), st.integers(2, 40))
def test_a_split_document_loses_nothing(text: str, length: int) -> None:
    unit = maker(length, "split").unit(Row((), text))
    whole = ENCODER.encode_document(text)
    assert unit.over_length == (len(whole.ids) > length)
    if unit.emptied == 0:
        assert [i for piece in unit.pieces for i in piece.ids] == whole.ids
    assert all(len(piece.ids) <= length for piece in unit.pieces)


def test_a_piece_without_targets_leaves_and_the_others_stay() -> None:
    row = Row(chat("a question of some length, in words", "yes"))
    whole = ENCODER.encode(row.chat)
    unit = maker(16, "split").unit(row)
    assert (unit.over_length, unit.dropped) == (True, "")
    assert len(unit.pieces) + unit.emptied == -(-len(whole.ids) // 16)
    assert unit.emptied > 0
    assert "".join(learned_text(piece) for piece in unit.pieces) == learned_text(whole)


def test_a_piece_of_one_token_has_no_target() -> None:
    unit = maker(4, "split").unit(Row((), "abcd"))
    assert ([len(piece.ids) for piece in unit.pieces], unit.emptied) == ([4], 1)


@pytest.mark.parametrize(("policy", "reason"), [("truncate", "nothingLearned"), ("drop", "overLength")])
def test_a_row_of_which_nothing_is_left_says_why(policy: str, reason: str) -> None:
    unit = maker(16, policy).unit(Row(chat("a question of some length, in words", "yes")))
    assert (unit.pieces, unit.over_length, unit.dropped) == ([], True, reason)


def pair(prompt: Messages, chosen: str, rejected: str) -> Row:
    return Row((*prompt, ("assistant", chosen)), rejected=(*prompt, ("assistant", rejected)))


def test_a_preference_is_chosen_then_rejected_and_only_last_answers_are_learned() -> None:
    prompt = chat("q", "an earlier answer", "and now?")
    unit = maker(200).unit(pair(prompt, "good", "bad"))
    assert [learned_text(piece) for piece in unit.pieces] == [f"good\n{EOS}", f"bad\n{EOS}"]
    assert unit.pieces[0].ids == ENCODER.encode(pair(prompt, "good", "bad").chat).ids
    assert not unit.over_length


def test_only_the_last_run_of_learned_tokens_stays_learned() -> None:
    def flags(text: str) -> list[bool]:
        return [letter == "x" for letter in text]

    for before, after in (("-xx-xx-", "----xx-"), ("xx", "xx"), ("-x--", "-x--"), ("--", "--")):
        encoded = last_answer(Encoded([*range(len(before))], flags(before)))
        assert encoded.learned == flags(after)


@pytest.mark.parametrize(
    ("row", "length", "policy", "reason", "over_length"),
    [
        (pair(chat("q"), "same", "same"), 100, "truncate", "identicalAnswers", False),
        (
            pair(chat("q"), "the same words, then A", "the same words, then B"),
            30,
            "truncate",
            "identicalAnswers",
            True,
        ),
        (
            pair(chat("a prompt that takes all the room"), "good", "bad"),
            32,
            "truncate",
            "nothingLearned",
            True,
        ),
        (pair(chat("q"), "x" * 90, "short"), 60, "drop", "overLength", True),
    ],
    ids=["identical", "identical once cut", "no answer left", "one too long"],
)
def test_a_pair_leaves_whole(row: Row, length: int, policy: str, reason: str, over_length: bool) -> None:
    unit = maker(length, policy).unit(row)
    assert (unit.pieces, unit.dropped, unit.over_length) == ([], reason, over_length)


def test_a_long_pair_is_cut_from_its_end() -> None:
    row = pair(chat("q"), "x" * 90, "short")
    chosen, rejected = maker(60).unit(row).pieces
    assert chosen.ids == ENCODER.encode(row.chat).ids[:60]
    assert rejected.ids == ENCODER.encode(row.rejected_chat).ids
    assert set(learned_text(chosen)) == {"x"}


def test_a_preference_is_about_its_prompt() -> None:
    first, second = pair(chat("q"), "a", "b"), pair(chat("q"), "c", "d")
    assert content_digest(first) == content_digest(second)
    assert content_digest(first) != content_digest(pair(chat("p"), "a", "b"))
    assert content_digest(Row(chat("q", "a"))) != content_digest(Row(chat("q", "b")))
