"""Fill in the middle: a document is cut in three, and its middle is asked for after both sides of it.

PSM  <prefix> P <suffix> S <middle> M <end>     arXiv 2207.14255, section 3
SPM  <prefix> <suffix> S <middle> P M <end>     the same, appendix D, the variant that shares its sentinels
                                                with PSM; so were StarCoder (arXiv 2305.06161, Megatron-LM's
                                                FIM data set) and Code Llama (arXiv 2308.12950, section 2.3,
                                                `suffix_first` of its infilling code) trained

DeepSeek-Coder (arXiv 2401.14196) and Qwen2.5-Coder (arXiv 2409.12186) were trained on PSM; their SPM rows
take the same form with their own sentinels. P, M and S are tokenised apart, as they are when an editor asks
for a completion at its cursor. <end> is the end-of-sequence token, or Code Llama's own.

A base model without sentinels gets new tokens (`added`, spelled as Qwen's), or the document becomes a chat
(`instruction`):

    user       Fill the gap in this text.\\n\\nP<gap>S
    assistant  M

of which the answer alone is learned, whatever fim.loss says, and which knows no order; a document that
holds `<gap>` itself stays as it is.

What is drawn depends on the document's content alone, so the order of rows and the machine change nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from anneal_api.finetunejob import Data, Fim, Task
from anneal_runtime.chat import ChatEncoder, Encoded
from anneal_runtime.errors import Refused
from anneal_runtime.sentinels import Sentinels
from anneal_trainers.corpus.draws import chance, draw
from anneal_trainers.data import sentinels

Form = Literal["plain", "psm", "spm", "instruction"]
GAP = "<gap>"


@dataclass(frozen=True)
class Filler:
    """Turns documents of a task into fill-in-the-middle rows; `sentinels` None asks for the middle in a chat."""

    encoder: ChatEncoder
    fim: Fim
    sentinels: Sentinels | None

    def form(self, text: str, digest: bytes) -> Form:
        """Return what becomes of the document `text`, of which `digest` is the content's."""
        if not chance(digest, "rate", self.fim.rate):
            return "plain"
        if self.sentinels is None:
            return "plain" if GAP in text else "instruction"
        return "spm" if chance(digest, "spm", self.fim.spm_rate) else "psm"

    def rows(self, text: str, form: Form, digest: bytes, data: Data) -> tuple[list[Encoded], bool]:
        """Return the row of a document in `form`, or what the over-length policy leaves, and whether it was asked."""
        starts = [start for start, _ in self.encoder.encode_plain(text).offsets]
        return fitting(text, starts, lambda piece, number: self._row(piece, form, digest, number), data)

    def _row(self, text: str, form: Form, digest: bytes, number: int) -> Encoded:
        prefix, middle, suffix = cut(text, digest, number)
        if self.sentinels is None:
            return self.encoder.encode(chat(prefix, suffix, middle))
        ids = (
            self.encoder.encode_plain(prefix).ids,
            self.encoder.encode_plain(middle, within=True).ids,
            self.encoder.encode_plain(suffix, within=True).ids,
        )
        return arranged(*ids, self.sentinels, form == "spm", self.fim.loss == "all")


def filler(task: Task, encoder: ChatEncoder) -> Filler | None:
    """Return what transforms a task's documents, or None where nothing does.

    Args:
        encoder: as `sentinels.widened` returns it.

    Raises:
        Refused: the tokenizer lacks the sentinels.
    """
    if task.fim.rate == 0:
        return None
    asked = task.fim.tokens == "instruction"
    return Filler(encoder, task.fim, None if asked else sentinels.find(task, encoder))


def request(prefix: str, suffix: str, what: str = "text") -> str:
    """Return the words that ask for what is missing between two parts of a text."""
    return f"Fill the gap in this {what}.\n\n{prefix}{GAP}{suffix}"


def chat(prefix: str, suffix: str, middle: str) -> list[dict[str, str]]:
    """Return a document in the form `instruction`."""
    return [
        {"role": "user", "content": request(prefix, suffix)},
        {"role": "assistant", "content": middle},
    ]


def cut(text: str, digest: bytes, piece: int = 0) -> tuple[str, str, str]:
    """Return prefix, middle and suffix of a text: cut at two different places, any two as likely.

    Args:
        digest: of the content of the document that the text is a piece of, and `piece` its number there.
    """
    one = draw(digest, f"one {piece}") % (len(text) + 1)
    other = draw(digest, f"other {piece}") % len(text)
    begin, end = sorted((one, other + (other >= one)))
    return text[:begin], text[begin:end], text[end:]


def arranged(
    prefix: Sequence[int], middle: Sequence[int], suffix: Sequence[int], by: Sentinels, spm: bool, whole: bool
) -> Encoded:
    """Return a row of three tokenised parts: the middle and its end are learned, and if `whole` the sides."""
    if spm:
        sides = [([by.prefix, by.suffix], False), (suffix, whole), ([by.middle], False), (prefix, whole)]
    else:
        sides = [
            ([by.prefix], False),
            (prefix, whole),
            ([by.suffix], False),
            (suffix, whole),
            ([by.middle], False),
        ]
    runs = [*sides, (middle, True), ([by.end], True)]
    return Encoded([i for ids, _ in runs for i in ids], [learned for ids, learned in runs for _ in ids])


def fitting(
    text: str, starts: Sequence[int], encode: Callable[[str, int], Encoded], data: Data
) -> tuple[list[Encoded], bool]:
    """Return the rows of a text, none longer than data.max_length, and whether one row would have been.

    Args:
        starts: where in the text its tokens begin; it is only cut there.
        encode: makes the row of a piece, given the number of the piece.
    """
    whole = encode(text, 0)
    if len(whole.ids) <= data.max_length:
        return [whole], False
    if data.over_length == "drop":
        return [], True
    places = sorted({0, *starts, len(text)})
    rows: list[Encoded] = []
    begin = 0
    while begin < len(places) - 1 and (data.over_length == "split" or not rows):
        row, size = _longest(text, places[begin:], lambda piece: encode(piece, len(rows)), data.max_length)
        rows.append(row)
        begin += size
    return rows, True


def _longest(
    text: str, places: Sequence[int], encode: Callable[[str], Encoded], limit: int
) -> tuple[Encoded, int]:
    """Return a row of at most `limit` tokens from the first of `places` on, and how many places it takes."""
    size = min(limit, len(places) - 1)
    while len((row := encode(text[places[0] : places[size]])).ids) > limit:
        if size == 1:
            raise Refused(
                "MaxLengthTooShort",
                f"spec.data.maxLength: {limit} has no room for a fill-in-the-middle row of one token of text, "
                f"which takes {len(row.ids)}; raise it",
            )
        size = max(1, min(size - 1, size * limit // len(row.ids)))
    return row, size
