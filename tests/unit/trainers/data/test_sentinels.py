"""Sentinels are single tokens, found in the tokenizer or added to it, or the user is told what to choose."""

from typing import Any

import pytest
from byte_encoder import EOS, byte_encoder

from anneal_api.finetunejob import Task
from anneal_runtime.errors import Refused
from anneal_runtime.sentinels import FAMILIES, Sentinels
from anneal_trainers.data import sentinels

FAMILY_NAMES = sorted(FAMILIES)
ENCODERS = {name: byte_encoder(FAMILIES[name].texts) for name in FAMILY_NAMES}


def task(**settings: Any) -> Task:
    return Task.model_validate(
        {"name": "code", "data": {"uri": "file:///rows"}, "fim": {"rate": 1, **settings}}
    )


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_each_sentinel_is_one_id(name: str) -> None:
    tokenizer = ENCODERS[name].tokenizer
    by = sentinels.find(task(tokens=name), ENCODERS[name])
    found = [tokenizer.encode(text, add_special_tokens=False).ids for text in FAMILIES[name].texts]
    ends = [] if FAMILIES[name].end else [[tokenizer.token_to_id(EOS)]]
    assert found + ends == [[by.prefix], [by.suffix], [by.middle], [by.end]]


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_auto_reads_the_family_off_the_tokenizer(name: str) -> None:
    encoder = ENCODERS[name]
    assert sentinels.find(task(tokens="auto"), encoder) == sentinels.find(task(tokens=name), encoder)


@pytest.mark.parametrize("tokens", ["auto", *FAMILY_NAMES])
def test_a_tokenizer_without_sentinels_is_refused(tokens: str) -> None:
    pieces = {"auto": "<｜fim▁begin｜> as 19 tokens", "starcoder": "<fim_prefix> as 12 tokens"}
    with pytest.raises(Refused) as caught:
        sentinels.find(task(tokens=tokens), byte_encoder())
    assert caught.value.reason == "FimTokens"
    assert f"spec.tasks[].fim.tokens: {tokens} in task code" in caught.value.message
    assert pieces.get(tokens, "as ") in caught.value.message
    assert "choose added (new tokens are trained) or instruction" in caught.value.message


def test_a_family_of_which_a_token_is_missing_is_refused_by_that_token() -> None:
    encoder = byte_encoder(["<fim_prefix>", "<fim_middle>"])
    with pytest.raises(Refused, match="encodes <fim_suffix> as 12 tokens"):
        sentinels.find(task(tokens="starcoder"), encoder)


def test_added_tokens_follow_the_last_id_and_work_as_sentinels() -> None:
    encoder, added = sentinels.widened([task(rate=0), task(tokens="added")], byte_encoder())
    assert added == {"<|fim_prefix|>": 257, "<|fim_suffix|>": 258, "<|fim_middle|>": 259}
    assert sentinels.find(task(tokens="added"), encoder) == Sentinels(257, 258, 259, 256)


def test_nothing_is_added_where_no_task_asks() -> None:
    encoder = byte_encoder()
    for asking in (task(tokens="instruction"), task(tokens="added", rate=0)):
        assert sentinels.widened([asking], encoder) == (encoder, {})


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_adding_to_a_tokenizer_that_has_sentinels_is_refused(name: str) -> None:
    with pytest.raises(Refused, match=r"fim.tokens: task code asks for added, .* already; choose auto"):
        sentinels.widened([task(tokens="added")], ENCODERS[name])
