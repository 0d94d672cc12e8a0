"""What ids write by themselves, for both families of tokenizers."""

import pytest
from tests.tiny_model import write_tiny_model
from tokenizers import AddedToken, Tokenizer, decoders, models

from anneal_serving.vocabulary import token_bytes


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.from_file(str(write_tiny_model(tmp_path_factory.mktemp("tiny")) / "tokenizer.json"))


def test_byte_level_tokens_join_to_the_text(tiny: Tokenizer) -> None:
    written = token_bytes(tiny)
    for text in ("def f(x):\n\treturn  x", "é ☃ 🙂"):
        assert b"".join(written[token] for token in tiny.encode(text).ids) == text.encode()
    assert len(written) == tiny.get_vocab_size()


def test_special_tokens_write_nothing_and_added_ones_their_text(tiny: Tokenizer) -> None:
    tokenizer = Tokenizer.from_str(tiny.to_str())
    tokenizer.add_tokens([AddedToken("Ġ is here", special=False)])
    written = token_bytes(tokenizer)
    assert written[tokenizer.token_to_id("<|im_end|>")] == b""
    assert written[-1] == "Ġ is here".encode()


def test_sentence_piece_has_its_own_space_and_bytes() -> None:
    tokens = {"<unk>": 0, "<0x0A>": 1, "▁": 2, "▁a": 3, "b": 5}
    tokenizer = Tokenizer(models.BPE(vocab=tokens, merges=[]))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<unk>"])
    assert token_bytes(tokenizer) == [b"", b"\n", b" ", b" a", b"", b"b"]
