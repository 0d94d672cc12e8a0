"""A source row becomes a unit: one row of the dataset, several that belong together, or none, for a reason."""

import hashlib
import json
from dataclasses import dataclass

from anneal_api.finetunejob import Data
from anneal_runtime.chat import ChatEncoder, Encoded
from anneal_trainers.data.fim import Filler, Form
from anneal_trainers.data.formats import Row


@dataclass(frozen=True)
class UnitFacts:
    """What is counted of a unit: that of `Unit`, and the tokens of each piece."""

    lengths: tuple[int, ...]
    over_length: bool = False
    emptied: int = 0
    dropped: str = ""
    form: Form = "plain"


@dataclass(frozen=True)
class Unit:
    """What became of a source row.

    `emptied` pieces had nothing to learn and left; `dropped` says why no piece is left, and is empty else.
    """

    pieces: list[Encoded]
    over_length: bool = False
    emptied: int = 0
    dropped: str = ""
    form: Form = "plain"

    @property
    def facts(self) -> UnitFacts:
        """What is counted of the unit."""
        lengths = tuple(len(piece.ids) for piece in self.pieces)
        return UnitFacts(lengths, self.over_length, self.emptied, self.dropped, self.form)


@dataclass(frozen=True)
class UnitMaker:
    """Encodes the rows of one task; `filler` is set where documents are turned into fill-in-the-middle rows."""

    encoder: ChatEncoder
    data: Data
    filler: Filler | None = None

    def unit(self, row: Row) -> Unit:
        """Return the unit of a row."""
        if row.rejected:
            return self._pair(row)
        digest = content_digest(row)
        if self.filler and (form := self.filler.form(row.text, digest)) != "plain":
            return _unit(*self.filler.rows(row.text, form, digest, self.data), form)
        encoded = self.encoder.encode(row.chat) if row.messages else self.encoder.encode_document(row.text)
        return _unit(fit(encoded, self.data), len(encoded.ids) > self.data.max_length)

    def _pair(self, row: Row) -> Unit:
        """Return chosen and rejected, each cut from its end if at all; they stay together or leave together."""
        both = [last_answer(self.encoder.encode(chat)) for chat in (row.chat, row.rejected_chat)]
        over_length = any(len(encoded.ids) > self.data.max_length for encoded in both)
        pieces = [piece for encoded in both for piece in fit(encoded, self.data)[:1]]
        dropped = _pair_dropped(pieces)
        return Unit([] if dropped else pieces, over_length, dropped=dropped)


def content_digest(row: Row) -> bytes:
    """Return the sha256 of what a row is about: its content; of a preference its prompt."""
    messages = row.messages[:-1] if row.rejected else row.messages
    content = json.dumps([messages, row.text], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).digest()


def fit(encoded: Encoded, data: Data) -> list[Encoded]:
    """Return what the over-length policy leaves of a row: nothing, itself, or pieces."""
    length = len(encoded.ids)
    if length <= data.max_length:
        return [encoded]
    if data.over_length == "drop":
        return []
    starts = range(0, length, data.max_length) if data.over_length == "split" else range(1)
    return [
        Encoded(encoded.ids[s : s + data.max_length], encoded.learned[s : s + data.max_length])
        for s in starts
    ]


def last_answer(encoded: Encoded) -> Encoded:
    """Return a chat of which only the last answer, with its end, is learned."""
    learned = [False] * len(encoded.ids)
    for place in reversed(range(len(learned))):
        learned[place] = encoded.learned[place]
        if learned[place + 1 : place + 2] == [True] and not learned[place]:
            break
    return Encoded(encoded.ids, learned)


def _unit(pieces: list[Encoded], over_length: bool, form: Form = "plain") -> Unit:
    kept = [piece for piece in pieces if _is_learned(piece)]
    if kept:
        return Unit(kept, over_length, len(pieces) - len(kept), form=form)
    return Unit([], over_length, dropped="nothingLearned" if pieces else "overLength", form=form)


def _pair_dropped(pieces: list[Encoded]) -> str:
    if len(pieces) < 2:
        return "overLength"
    if not all(map(_is_learned, pieces)):
        return "nothingLearned"
    return "identicalAnswers" if pieces[0].ids == pieces[1].ids else ""


def _is_learned(piece: Encoded) -> bool:
    # Nothing precedes the first token, so it is no target.
    return any(piece.learned[1:])
