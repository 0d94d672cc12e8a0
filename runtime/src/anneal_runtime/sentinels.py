"""The tokens that mark the parts of a fill-in-the-middle prompt, as families of base models spell them.

DeepSeek-Coder (arXiv 2401.14196), StarCoder (2305.06161), Qwen2.5-Coder (2409.12186), Code Llama (2308.12950).
Training arranges its rows with them, the endpoint its prompts.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import Tokenizer

from anneal_runtime.chat import ChatEncoder


@dataclass(frozen=True)
class Family:
    """How a family of base models spells its sentinels; `end` None is the end-of-sequence token."""

    prefix: str
    suffix: str
    middle: str
    end: str | None = None

    @property
    def texts(self) -> list[str]:
        """All of them."""
        return [text for text in (self.prefix, self.suffix, self.middle, self.end) if text]


FAMILIES = {
    "deepseek": Family("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    "starcoder": Family("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    "qwen": Family("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    "codellama": Family("<PRE>", "<SUF>", "<MID>", "<EOT>"),
}


@dataclass(frozen=True)
class Sentinels:
    """Ids of the sentinels and of the token that ends a middle."""

    prefix: int
    suffix: int
    middle: int
    end: int


def of(encoder: ChatEncoder, families: Iterable[Family] = FAMILIES.values()) -> Sentinels | None:
    """Return the sentinels of the first family that the tokenizer has whole, None when it has none."""
    for family in families:
        ids = [number for text in family.texts if (number := id_of(encoder.tokenizer, text)) is not None]
        if len(ids) == len(family.texts):
            prefix, suffix, middle, *end = ids
            return Sentinels(prefix, suffix, middle, end[0] if end else encoder.end_of_text)
    return None


def prompt(encoder: ChatEncoder, by: Sentinels, prefix: str, suffix: str) -> list[int]:
    """Return the ids that ask for what stands between `prefix` and `suffix`, in the order prefix, suffix, middle.

    The parts are encoded apart and hold no special token, as in training.
    """
    before = encoder.encode_plain(prefix).ids
    after = encoder.encode_plain(suffix, within=True).ids
    return [by.prefix, *before, by.suffix, *after, by.middle]


def id_of(tokenizer: Tokenizer, text: str) -> int | None:
    """Return the id of an added token, which SentencePiece spells with a ▁ before it."""
    added = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}
    return added.get(text, added.get(f"▁{text}"))
