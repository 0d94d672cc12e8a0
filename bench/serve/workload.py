"""Prompts of given lengths, of real text."""

import itertools
from dataclasses import replace

import smollm2
from train.rows import token_stream

from serve.measure import Job

FIRST = 1000
"""The first of the ids that take turns at the beginning of prompts: words, none of them special."""


class Prompts:
    """Cuts prompts from the quick start's texts, one after the other."""

    def __init__(self) -> None:
        self._stream: list[int] = token_stream(*smollm2.base_and_texts()).tolist()
        self._at = 0
        self._asked = itertools.count(FIRST)

    def job(self, prompt: int, tokens: int, count: int, streams: int) -> Job:
        """Return a job of `count` prompts of `prompt` tokens each."""
        return Job([self._next(prompt) for _ in range(count)], tokens, streams)

    def fresh(self, job: Job) -> Job:
        """Return the job with another first token in each prompt: gateway and Triton lead to the same replica, whose
        prefix cache shall not know what it is asked for the second time."""
        return replace(job, prompts=[[next(self._asked), *prompt[1:]] for prompt in job.prompts])

    def _next(self, length: int) -> list[int]:
        if self._at + length > len(self._stream):
            raise SystemExit(f"the texts have {len(self._stream)} tokens, and more are asked for")
        start, self._at = self._at, self._at + length
        return self._stream[start : self._at]
