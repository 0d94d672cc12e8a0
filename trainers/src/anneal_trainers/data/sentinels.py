"""Which fill-in-the-middle tokens a task is trained with: the tokenizer's own, or new ones."""

from collections.abc import Sequence

from tokenizers import Tokenizer

from anneal_api.finetunejob import Task
from anneal_runtime import sentinels
from anneal_runtime.chat import ChatEncoder
from anneal_runtime.errors import Refused
from anneal_runtime.sentinels import FAMILIES, Sentinels

ADDED = FAMILIES["qwen"]


def widened(tasks: Sequence[Task], encoder: ChatEncoder) -> tuple[ChatEncoder, dict[str, int]]:
    """Return an encoder with the tokens that tasks ask to add, and the ids these tokens have got.

    Raises:
        Refused: the tokenizer has sentinels already.
    """
    asking = [task.name for task in tasks if task.fim.rate and task.fim.tokens == "added"]
    if not asking:
        return encoder, {}
    texts = [text for family in FAMILIES.values() for text in family.texts]
    if known := [text for text in texts if sentinels.id_of(encoder.tokenizer, text) is not None]:
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
    if found := sentinels.of(encoder, families):
        return found
    shown = "; ".join(_shown(encoder.tokenizer, family.texts) for family in families)
    raise Refused(
        "FimTokens",
        f"spec.tasks[].fim.tokens: {task.fim.tokens} in task {task.name}, and the tokenizer of spec.baseModel "
        f"lacks sentinels, as it encodes {shown}; choose added (new tokens are trained) or instruction",
    )


def _shown(tokenizer: Tokenizer, texts: Sequence[str]) -> str:
    missing = next(text for text in texts if sentinels.id_of(tokenizer, text) is None)
    return f"{missing} as {len(tokenizer.encode(missing, add_special_tokens=False).ids)} tokens"
