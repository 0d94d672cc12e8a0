"""The tokens that mark the parts of a fill-in-the-middle row, as families of base models spell them.

DeepSeek-Coder (arXiv 2401.14196), StarCoder (2305.06161), Qwen2.5-Coder (2409.12186), Code Llama (2308.12950).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from anneal_api.finetunejob import Task
from anneal_runtime.chat import ChatEncoder
from anneal_runtime.errors import Refused


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
ADDED = FAMILIES["qwen"]


@dataclass(frozen=True)
class Sentinels:
    """Ids of the sentinels and of the token that ends a middle."""

    prefix: int
    suffix: int
    middle: int
    end: int


def widened(tasks: Sequence[Task], encoder: ChatEncoder) -> tuple[ChatEncoder, dict[str, int]]:
    """Return an encoder with the tokens that tasks ask to add, and the ids these tokens have got.

    Raises:
        Refused: the tokenizer has sentinels already.
    """
    asking = [task.name for task in tasks if task.fim.rate and task.fim.tokens == "added"]
    if not asking:
        return encoder, {}
    texts = [text for family in FAMILIES.values() for text in family.texts]
    if known := [text for text in texts if _id(encoder.tokenizer, text) is not None]:
        raise Refused(
            "FimTokens",
            f"spec.tasks[].fim.tokens: task {asking[0]} asks for added, and the tokenizer of spec.baseModel has "
            f"{', '.join(known)} already; choose auto, which uses them",
        )
    wider = encoder.with_tokens(ADDED.texts)
    known_now = wider.tokenizer.get_added_tokens_decoder()
    return wider, {
        token.content: number for number, token in known_now.items() if token.content in ADDED.texts
    }


def find(task: Task, encoder: ChatEncoder) -> Sentinels:
    """Return the ids of the sentinels a task asks for; auto takes the first family the tokenizer has.

    Args:
        encoder: as `widened` returns it.

    Raises:
        Refused: not all of them are tokens.
    """
    tokens = "qwen" if task.fim.tokens == "added" else task.fim.tokens
    families = list(FAMILIES.values()) if tokens == "auto" else [FAMILIES[tokens]]
    for family in families:
        ids = [number for text in family.texts if (number := _id(encoder.tokenizer, text)) is not None]
        if len(ids) == len(family.texts):
            prefix, suffix, middle, *end = ids
            return Sentinels(prefix, suffix, middle, end[0] if end else encoder.end_of_text)
    shown = "; ".join(_shown(encoder.tokenizer, family.texts) for family in families)
    raise Refused(
        "FimTokens",
        f"spec.tasks[].fim.tokens: {task.fim.tokens} in task {task.name}, and the tokenizer of spec.baseModel "
        f"lacks sentinels, as it encodes {shown}; choose added (new tokens are trained) or instruction",
    )


def _shown(tokenizer: Tokenizer, texts: Sequence[str]) -> str:
    missing = next(text for text in texts if _id(tokenizer, text) is None)
    return f"{missing} as {len(tokenizer.encode(missing, add_special_tokens=False).ids)} tokens"


def _id(tokenizer: Tokenizer, text: str) -> int | None:
    """Return the id of an added token, which SentencePiece spells with a ▁ before it."""
    added = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}
    return added.get(text, added.get(f"▁{text}"))
