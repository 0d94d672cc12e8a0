"""A request of lm-eval as one to an endpoint, and what of the answer a task sees."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from anneal_evaluation.results import Settings
from anneal_evaluation.scoring import Request
from anneal_evaluation.suites.problems import Ask
from anneal_runtime.errors import Refused

_SAID: Mapping[str, Any] = {"do_sample": None, "temperature": None, "until": None, "max_gen_toks": None}
_NEUTRAL: Mapping[str, Any] = {"top_p": 1, "num_beams": 1}
"""Settings of generation that change nothing at these values."""


def check(task: str, generation: Mapping[str, Any]) -> None:
    """Raise Refused where a task's generation_kwargs hold what an answer is not asked for with."""
    for name, value in generation.items():
        if name not in _SAID and _NEUTRAL.get(name) != value:
            raise Refused(
                "InvalidSuite",
                f"task {task}: generation_kwargs.{name}: {value!r} is not asked of endpoints; leave it out, or score without",
            )


def request(
    context: str, generation: Mapping[str, Any], settings: Settings, repeat: int, *, chat: bool
) -> Request:
    """Return what an endpoint is asked; `generation` is normalised, `repeat` counts the answers to one prompt from 0.

    A chat comes as JSON, for lm-eval's prompts are texts.
    """
    stops = tuple(stops_of(generation))
    if chat:
        messages = tuple((each["role"], each["content"]) for each in json.loads(context))
        ask = Ask(messages=messages, stops=stops)
    else:
        ask = Ask(prefix=context, stops=stops)
    return Request(
        ask,
        max_tokens=int(generation["max_gen_toks"]),
        temperature=float(generation.get("temperature", 0.0)),
        seed=settings.seed + repeat,
    )


def stops_of(generation: Mapping[str, Any]) -> list[str]:
    """Return the texts that end an answer."""
    return [stop for stop in generation["until"] if stop]


def kept(answer: str, stops: Sequence[str]) -> str:
    """Return an answer up to its first stop: an endpoint takes four, tasks may have more."""
    return min((answer.partition(stop)[0] for stop in stops), key=len, default=answer)
