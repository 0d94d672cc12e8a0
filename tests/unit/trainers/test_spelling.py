"""A tokenizer that did not write the rows is noticed, even where its vocabulary is the same."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.tiny_model import write_tiny_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from anneal_runtime.chat import ChatEncoder
from anneal_runtime.errors import Refused
from anneal_trainers import spelling

TEXTS = [
    "def f(x):\n    return x + 10\n",
    "values = [1024, 2048]\nfor value in values:\n    print(value)\n",
    "class A:\n    size = 300\n",
    "assert g(12) == 144\n",
]


def with_spaces_marked(folder: Path) -> None:
    """Put SentencePiece's kind of tokenizer in the folder's: a mark for each space, one before every text."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Metaspace(prepend_scheme="first"), decoders.ByteFallback()]
    )
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module", params=["bytes", "spaces marked"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ChatEncoder:
    folder = write_tiny_model(tmp_path_factory.mktemp("tiny"))
    if request.param != "bytes":
        with_spaces_marked(folder)
    return ChatEncoder.from_pretrained_folder(folder)


def rows(encoder: ChatEncoder) -> list[spelling.Row]:
    """Chats, and a plain text that is cut in the middle of a word."""
    chats = [
        encoder.encode([{"role": "user", "content": "go on"}, {"role": "assistant", "content": text}])
        for text in TEXTS
    ]
    cut = encoder.encode_document(TEXTS[1])
    pairs = [*((chat.ids, chat.learned) for chat in chats), (cut.ids[:-3], cut.learned[:-3])]
    return [(np.asarray(ids), np.asarray(learned)) for ids, learned in pairs]


def test_the_tokenizer_of_the_rows_is_theirs(encoder: ChatEncoder) -> None:
    spelling.check(encoder, rows(encoder))
    spelling.check(encoder, [])


def test_another_pre_tokenizer_is_noticed(encoder: ChatEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path)
    state = json.loads(encoder.tokenizer.to_str())
    single = {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False}
    state["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [single, state["pre_tokenizer"]]}
    Tokenizer.from_str(json.dumps(state)).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(
        Refused, match=r"writes \d of 5 answers as the rows have them: it is not the tokenizer"
    ):
        spelling.check(ChatEncoder.load(tmp_path), rows(encoder))
