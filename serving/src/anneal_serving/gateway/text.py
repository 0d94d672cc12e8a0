"""From token ids to text while they arrive: whole characters only, and nothing of a stop string."""

from collections.abc import Callable

_HALF = "�"
"""What a tokenizer writes for bytes that are no whole character (yet)."""


class Detokenizer:
    """Decodes ids as they arrive.

    A token may be part of a character, and its text may depend on the one before it (a word's leading
    space). So the text of a window from an earlier boundary is compared with that of the window before, and
    a window that ends in half a character is kept back.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._start = 0
        self._read = 0

    def push(self, ids: list[int]) -> str:
        """Take more ids and return the text that is now certain."""
        self._ids += ids
        return self._advance(False)

    def flush(self) -> str:
        """Return what was kept back."""
        return self._advance(True)

    def _advance(self, whole: bool) -> str:
        before = self._decode(self._ids[self._start : self._read])
        after = self._decode(self._ids[self._start :])
        if len(after) <= len(before) or (after.endswith(_HALF) and not whole):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return after[len(before) :]


class StopFilter:
    """Passes text on until a stop string appears; keeps back an end that may become one."""

    def __init__(self, stops: list[str]) -> None:
        self._stops = stops
        self._held = ""
        self.hit = False

    def push(self, text: str) -> str:
        """Take more text and return what may be shown."""
        if self.hit:
            return ""
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.hit = True
            return self._release(min(found))
        return self._release(len(self._held) - self._suspect())

    def flush(self) -> str:
        """Return what was kept back, unless a stop string was found."""
        return "" if self.hit else self._release(len(self._held))

    def _release(self, count: int) -> str:
        shown, self._held = self._held[:count], self._held[count:]
        return shown

    def _suspect(self) -> int:
        """Return the length of the longest end of the text that begins a stop string."""
        most = max((len(stop) for stop in self._stops), default=1) - 1
        ends = range(min(most, len(self._held)), 0, -1)
        begins = (n for n in ends if any(stop.startswith(self._held[-n:]) for stop in self._stops))
        return next(begins, 0)


class Transcript:
    """An answer in the making.

    Attributes:
        tokens: generated so far, with the end token.
        finish: why the answer ended (stop or length), None while it goes on.
    """

    def __init__(
        self, decode: Callable[[list[int]], str], eos_ids: list[int], stops: list[str], limit: int
    ) -> None:
        self._detokenizer = Detokenizer(decode)
        self._filter = StopFilter(stops)
        self._eos = frozenset(eos_ids)
        self._limit = limit
        self.tokens = 0
        self.finish: str | None = None

    def push(self, ids: list[int]) -> str:
        """Take a step's ids and return the text to show."""
        shown = []
        for token in ids:
            if self.finish:
                break
            shown.append(self._push_one(token))
        return "".join(shown)

    def end(self) -> str:
        """The engine has finished: return the rest of the text."""
        rest = "" if self._filter.hit else self._filter.push(self._detokenizer.flush()) + self._filter.flush()
        if self.finish is None:
            self.finish = "length" if self.tokens >= self._limit and not self._filter.hit else "stop"
        return rest

    def _push_one(self, token: int) -> str:
        self.tokens += 1
        if token in self._eos:
            self.finish = "stop"
            return ""
        text = self._filter.push(self._detokenizer.push([token]))
        if self._filter.hit:
            self.finish = "stop"
        return text
