"""Answers from a model that is held in this process: an exported checkpoint, or the engine that will serve it.

The prompt is encoded as the endpoint encodes it, so that its score is the endpoint's. Greedy alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from anneal_evaluation.results import Settings
from anneal_evaluation.scoring import Request
from anneal_evaluation.suites.problems import Ask
from anneal_runtime import sentinels
from anneal_runtime.chat import ChatEncoder
from anneal_runtime.errors import Refused

GREEDY = Settings()
"""How models in the cluster are scored, before and after quantisation."""


@dataclass(frozen=True)
class Prompt:
    """Token ids to go on from, and how many may be added."""

    ids: tuple[int, ...]
    max_tokens: int


Continue = Callable[[Sequence[Prompt]], Sequence[Sequence[int]]]
"""Runs a model: the ids that follow each prompt, with or without the one that ends."""


@dataclass(frozen=True)
class InProcess:
    """A model of so many tokens a sequence, called as any other is."""

    encoder: ChatEncoder
    run: Continue
    longest: int
    """Tokens of prompt and answer together."""

    def __call__(self, requests: Sequence[Request]) -> list[str]:
        """Return the answers; of a prompt that leaves no room for one, the empty one that an endpoint would refuse."""
        prompts = [self._prompt(request) for request in requests]
        room = [number for number, prompt in enumerate(prompts) if prompt.max_tokens > 0]
        found = dict(zip(room, self.run([prompts[number] for number in room]), strict=True))
        return [self._text(requests[n].ask, found.get(n, ())) for n in range(len(requests))]

    def _prompt(self, request: Request) -> Prompt:
        ids = tuple(self._ids(request.ask))
        return Prompt(ids, min(request.max_tokens, self.longest - len(ids)))

    def _ids(self, ask: Ask) -> list[int]:
        if ask.messages:
            messages = [{"role": role, "content": text} for role, text in ask.messages]
            return self.encoder.encode(messages, add_generation_prompt=True).ids
        if ask.suffix is None:
            return list(self.encoder.encode_plain(ask.prefix).ids)
        return sentinels.prompt(self.encoder, infill_marks(self.encoder), ask.prefix, ask.suffix)

    def _text(self, ask: Ask, ids: Sequence[int]) -> str:
        marks = None if ask.suffix is None else sentinels.of(self.encoder)
        ends = {*self.encoder.eos_ids, self.encoder.end_of_text, *([marks.end] if marks else [])}
        kept = next((ids[:place] for place, token in enumerate(ids) if token in ends), ids)
        text = self.encoder.decode(list(kept))
        return min((text.partition(stop)[0] for stop in ask.stops), key=len, default=text)


def infill_marks(encoder: ChatEncoder) -> sentinels.Sentinels:
    """Return the tokens that a model is asked with for what stands between two texts; raise Refused where it has none."""
    if (marks := sentinels.of(encoder)) is None:
        raise Refused(
            "NoInfill",
            "spec.evaluation.suites: a suite has problems of infilling, and the model no tokens for it; take a model that "
            "has, or give a task spec.tasks[].fim so that it gets some",
        )
    return marks
