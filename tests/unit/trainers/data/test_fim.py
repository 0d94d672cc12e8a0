"""A document, its middle moved to the end: nothing lost, nothing forged, the same on any machine."""

import math
from typing import Any

import pytest
from byte_encoder import EOS, byte_encoder
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers

from anneal_api.finetunejob import Data, Task
from anneal_runtime.chat import CODEFUSE_TEMPLATE, ChatEncoder, Encoded
from anneal_runtime.errors import Refused
from anneal_runtime.sentinels import FAMILIES, Sentinels
from anneal_trainers.data import fim, sentinels
from anneal_trainers.data.fim import Filler, Form

FAMILY_NAMES = sorted(FAMILIES)
ENCODERS = {name: byte_encoder(FAMILIES[name].texts) for name in FAMILY_NAMES}
WIDE = Data.model_construct(max_length=100_000, over_length="truncate")

spelled = st.sampled_from([text for family in FAMILIES.values() for text in family.texts] + [EOS, fim.GAP])
documents = st.lists(st.one_of(st.text(min_size=1), spelled), min_size=1, max_size=6).map("".join)
digests = st.binary(min_size=32, max_size=32)
orders = st.sampled_from(["psm", "spm"])


def task(**settings: Any) -> Task:
    return Task.model_validate(
        {"name": "code", "data": {"uri": "file:///rows"}, "fim": {"rate": 1, **settings}}
    )


def made(name: str, **settings: Any) -> Filler:
    filler = fim.filler(task(**settings), ENCODERS[name])
    assert filler is not None
    return filler


def parts(encoded: Encoded, filler: Filler, form: Form) -> tuple[str, str, str]:
    """Return prefix, middle and suffix of a row, read off its ids by the published order."""
    by, ids = filler.sentinels, encoded.ids
    assert by is not None
    assert ids[-1] == by.end
    suffix_at, middle_at = ids.index(by.suffix), ids.index(by.middle)
    assert ids[0] == by.prefix
    assert (suffix_at == 1) == (form == "spm") or not ids[1:suffix_at]
    prefix, suffix, rest = ids[1:suffix_at], ids[suffix_at + 1 : middle_at], ids[middle_at + 1 : -1]
    return tuple(map(text_of, (prefix, rest, suffix)))  # type: ignore[return-value]


def text_of(ids: list[int]) -> str:
    """Return the text of byte tokens; special ones are shown, and would be seen."""
    return ENCODERS["qwen"].tokenizer.decode(ids, skip_special_tokens=False)


@given(documents, digests, orders, st.sampled_from(FAMILY_NAMES))
def test_prefix_middle_and_suffix_are_the_document(text: str, digest: bytes, form: Form, name: str) -> None:
    filler = made(name)
    ((row,), over_length) = filler.rows(text, form, digest, WIDE)
    prefix, rest, suffix = parts(row, filler, form)
    expected = fim.cut(text, digest)
    assert (prefix + rest, suffix) == (expected[0] + expected[1], expected[2])
    assert prefix + rest + suffix == text
    assert bool(prefix) == (form == "psm" and bool(expected[0]))
    assert not over_length


@given(documents, digests, orders, st.sampled_from(FAMILY_NAMES))
def test_each_sentinel_is_there_once_whatever_the_text_spells(
    text: str, digest: bytes, form: Form, name: str
) -> None:
    filler = made(name)
    ((row,), _) = filler.rows(text, form, digest, WIDE)
    special = [token for token in row.ids if token in filler.encoder.tokenizer.get_added_tokens_decoder()]
    by = filler.sentinels
    assert by is not None
    sides = [by.prefix, by.suffix, by.middle]
    assert special == [*sides, by.end]
    assert row.ids.index(by.prefix) == 0
    if form == "spm":
        assert row.ids.index(by.suffix) == 1


@given(documents, digests, orders, st.sampled_from(FAMILY_NAMES), st.sampled_from(["all", "middle"]))
def test_sentinels_are_never_learned_and_the_end_always_is(
    text: str, digest: bytes, form: Form, name: str, loss: str
) -> None:
    filler = made(name, loss=loss)
    ((row,), _) = filler.rows(text, form, digest, WIDE)
    by = filler.sentinels
    assert by is not None
    learned = [token for token, is_learned in zip(row.ids, row.learned, strict=True) if is_learned]
    assert not {by.prefix, by.suffix, by.middle} & {*learned}
    assert learned[-1] == by.end
    sides = len(fim.cut(text, digest)[0].encode()) + len(fim.cut(text, digest)[2].encode())
    assert len(learned) == len(row.ids) - 3 - (0 if loss == "all" else sides)


def test_published_orders() -> None:
    by = Sentinels(prefix=101, suffix=102, middle=103, end=104)
    psm = fim.arranged([1], [2, 3], [4], by, spm=False, whole=True)
    spm = fim.arranged([1], [2, 3], [4], by, spm=True, whole=False)
    assert psm.ids == [101, 1, 102, 4, 103, 2, 3, 104]
    assert psm.learned == [False, True, False, True, False, True, True, True]
    assert spm.ids == [101, 102, 4, 103, 1, 2, 3, 104]
    assert spm.learned == [False, False, False, False, False, True, True, True]


@given(st.text(min_size=1), digests)
def test_a_cut_never_leaves_an_empty_middle(text: str, digest: bytes) -> None:
    prefix, middle, suffix = fim.cut(text, digest)
    assert middle
    assert prefix + middle + suffix == text


def test_every_cut_is_as_likely() -> None:
    """Of a text of three characters there are six; 6000 draws give each 1000 within five deviations."""
    found = [fim.cut("abc", number.to_bytes(32)) for number in range(6000)]
    counts = [found.count(one) for one in {*found}]
    assert len(counts) == 6
    assert all(abs(count - 1000) < 5 * math.sqrt(6000 / 6 * 5 / 6) for count in counts)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("spm_rate", [0.0, 0.3, 1.0])
def test_rates_hold_within_binomial_bounds(rate: float, spm_rate: float) -> None:
    filler, documents = made("starcoder", rate=rate, spmRate=spm_rate), 4000
    forms = [filler.form("text", number.to_bytes(32)) for number in range(documents)]
    for count, share in (
        (documents - forms.count("plain"), rate),
        (forms.count("spm"), rate * spm_rate),
        (forms.count("psm"), rate * (1 - spm_rate)),
    ):
        assert abs(count - documents * share) <= 4 * math.sqrt(documents * share * (1 - share))


def test_rate_0_is_off_and_rate_1_is_always() -> None:
    assert fim.filler(task(rate=0), ENCODERS["qwen"]) is None
    assert "plain" not in {made("qwen").form("t", number.to_bytes(32)) for number in range(300)}


@given(documents, digests, orders, st.integers(24, 60))
def test_a_split_document_loses_nothing_and_every_piece_fits(
    text: str, digest: bytes, form: Form, length: int
) -> None:
    filler = made("qwen")
    data = Data.model_construct(max_length=length, over_length="split")
    rows, over_length = filler.rows(text, form, digest, data)
    assert "".join("".join(parts(row, filler, form)) for row in rows) == text
    assert all(len(row.ids) <= length for row in rows)
    assert over_length == (len(rows) > 1)
    assert over_length == (len(text.encode()) + 4 > length)


@pytest.mark.parametrize(("policy", "kept"), [("truncate", "a" * 28), ("drop", "")])
def test_the_policy_leaves_room_for_sentinels_and_end(policy: Any, kept: str) -> None:
    filler, data = made("qwen"), Data.model_construct(max_length=32, over_length=policy)
    rows, over_length = filler.rows("a" * 100, "psm", bytes(32), data)
    assert over_length
    assert ["".join(parts(row, filler, "psm")) for row in rows] == [kept][: len(kept)]


def test_a_length_without_room_for_a_token_is_refused() -> None:
    data = Data.model_construct(max_length=4, over_length="split")
    with pytest.raises(Refused, match="spec.data.maxLength: 4 has no room .* which takes 5; raise it"):
        made("qwen").rows("a text", "psm", bytes(32), data)


def test_merged_tokens_split_into_pieces_that_fit(tiny: Any) -> None:
    """Tokens of many characters: a part tokenised apart may have more of them than it had in the whole."""
    encoder, _ = sentinels.widened([task(tokens="added")], ChatEncoder.from_pretrained_folder(tiny))
    filler = fim.filler(task(tokens="added"), encoder)
    assert filler is not None
    text = "        return textwrap.dedent(self.text).strip() or None  # für 三 lines\n" * 12
    data = Data.model_construct(max_length=40, over_length="split")
    rows, _ = filler.rows(text, "psm", bytes(32), data)
    assert max(len(row.ids) for row in rows) <= 40
    assert len(rows) > 5
    by, pieces = filler.sentinels, []
    assert by is not None
    for row in rows:
        suffix_at, middle_at = row.ids.index(by.suffix), row.ids.index(by.middle)
        spans = (row.ids[1:suffix_at], row.ids[middle_at + 1 : -1], row.ids[suffix_at + 1 : middle_at])
        pieces += [encoder.decode(span) for span in spans]
    assert "".join(pieces) == text


def test_only_the_prefix_has_the_space_that_begins_a_text() -> None:
    """Code Llama's tokenizer puts a space before every text, and spells its sentinels with one."""
    tokenizer = Tokenizer(models.BPE(vocab={"▁": 0, "a": 1, "b": 2, "c": 3}, merges=[]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens([EOS, "▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"])
    encoder = ChatEncoder(tokenizer, CODEFUSE_TEMPLATE, {"eos_token": EOS}, [4])
    filler = fim.filler(task(tokens="codellama"), encoder)
    assert filler is not None
    assert filler.sentinels == Sentinels(5, 6, 7, 8)
    for digest in (number.to_bytes(32) for number in range(20)):
        ((row,), _) = filler.rows("abc" * 5, "psm", digest, WIDE)
        prefix, _, _ = fim.cut("abc" * 5, digest)
        assert [place for place, token in enumerate(row.ids) if token == 0] == ([1] if prefix else [])


def test_an_instruction_shows_both_sides_and_learns_the_middle() -> None:
    filler = fim.filler(task(tokens="instruction"), byte_encoder())
    assert filler is not None
    text = "def f():\n    return 1\n"
    assert filler.form(text, bytes(32)) == "instruction"
    ((row,), _) = filler.rows(text, "instruction", bytes(32), WIDE)
    prefix, middle, suffix = fim.cut(text, bytes(32))
    shown = text_of(row.ids)
    assert shown.startswith(
        f"<s>human\nFill the gap in this text.\n\n{prefix}<gap>{suffix}\n<s>bot\n{middle}\n"
    )
    assert (
        text_of([t for t, learned in zip(row.ids, row.learned, strict=True) if learned]) == f"{middle}\n{EOS}"
    )


def test_a_document_with_a_gap_of_its_own_stays_plain() -> None:
    filler = fim.filler(task(tokens="instruction"), byte_encoder())
    assert filler is not None
    assert filler.form("a <gap> b", bytes(32)) == "plain"


@given(st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"]), min_size=1), digests)
def test_instructions_split_without_a_loss(text: str, digest: bytes) -> None:
    filler = made("qwen", tokens="instruction")
    data = Data.model_construct(max_length=80, over_length="split")
    rows, _ = filler.rows(text, "instruction", digest, data)
    assert all(len(row.ids) <= 80 for row in rows)
    shown = [
        text_of(row.ids).removeprefix("<s>human\n" + fim.request("", "").removesuffix(fim.GAP))
        for row in rows
    ]
    prefixes, rest = zip(*(one.split(fim.GAP) for one in shown), strict=True)
    suffixes, middles = zip(
        *(one.removesuffix(f"\n{EOS}\n").split("\n<s>bot\n") for one in rest), strict=True
    )
    assert "".join(map("".join, zip(prefixes, middles, suffixes, strict=True))) == text
