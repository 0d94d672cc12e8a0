"""One sequence to generate, as every engine behind Triton's Python backend is asked for it. No runtime is imported here."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from anneal_serving.triton.grammar import Guide

WARM_UP_TOKENS = 4


@dataclass(frozen=True)
class Generation:
    """One sequence to generate."""

    ids: list[int]
    max_tokens: int
    stop_ids: frozenset[int]
    temperature: float = 1.0
    top_k: int = 0
    """0: all tokens; 1: greedy."""
    top_p: float = 1.0
    seed: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logprobs: bool = False
    """Whether each token's log-probability is wanted, of the model's own distribution."""
    guide: "Guide | None" = None

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.top_k == 1 or self.temperature == 0


class Receiver(Protocol):
    """Where a sequence's tokens go."""

    def tokens(self, ids: list[int], logprobs: list[float], final: bool) -> None:
        """Take the tokens of a step; `final` ends the sequence."""

    def failed(self, message: str) -> None:
        """End the sequence with an error."""

    def cancelled(self) -> bool:
        """Whether nobody waits for this sequence any more."""


class Queue(Protocol):
    """What runs sequences."""

    def submit(self, generation: Generation, receiver: Receiver) -> None:
        """Queue a sequence; its tokens reach `receiver` from another thread."""


def warm_up(queue: Queue, slots: int, sequence: int, stop_id: int) -> None:
    """Generate a few tokens in every slot, so that ready means that a request was answered.

    Raises:
        RuntimeError: the engine cannot generate.
    """
    tokens = min(WARM_UP_TOKENS, sequence - 1)
    one = Generation([stop_id], tokens, frozenset([stop_id]), top_k=1)
    try:
        written = run_all(queue, [one] * slots)
    except RuntimeError as error:
        raise RuntimeError(f"the engine's warm-up failed: {error}") from error
    if not all(written):
        raise RuntimeError("the engine's warm-up failed: no tokens")


def run_all(queue: Queue, generations: Sequence[Generation]) -> list[list[int]]:
    """Return what each sequence goes on with.

    Raises:
        RuntimeError: the engine failed on one.
    """
    receivers = [_Collector() for _ in generations]
    for generation, receiver in zip(generations, receivers, strict=True):
        queue.submit(generation, receiver)
    for receiver in receivers:
        receiver.done.wait()
        if receiver.error:
            raise RuntimeError(receiver.error)
    return [receiver.ids for receiver in receivers]


class _Collector:
    def __init__(self) -> None:
        self.ids: list[int] = []
        self.error = ""
        self.done = threading.Event()

    def tokens(self, ids: list[int], logprobs: list[float], final: bool) -> None:
        self.ids += ids
        if final:
            self.done.set()

    def failed(self, message: str) -> None:
        self.error = message
        self.done.set()

    def cancelled(self) -> bool:
        return False
