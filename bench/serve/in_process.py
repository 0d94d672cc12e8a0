"""OpenVINO GenAI's continuous batching in this process, on the engine that the endpoint serves: `python -m serve.in_process ENGINE
SLOTS SEQUENCE`, opened and asked as the replica's Triton model opens and asks it.
"""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from anneal_runtime import artifacts
from anneal_runtime.chat import ChatEncoder
from anneal_serving.triton import grammar, scheduler
from anneal_serving.triton.generation import Generation
from anneal_serving.triton.scheduler import Limits
from serve.measure import Answer, Job, run_jobs


class Pipeline:
    """Answers jobs, so many streams at once."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        manifest = artifacts.published(f"file://{folder}")
        assert manifest is not None, f"{folder} is no engine artifact"
        self._ends = frozenset(ChatEncoder.load(folder).eos_ids)
        size = scheduler.vocabulary_of(folder)
        tokenizer = grammar.tokenizer_of(folder / "tokenizer.json", min(self._ends), size)
        self._pipeline = scheduler.open_pipeline(folder, limits, manifest.metadata["properties"], tokenizer)
        self._count = 0

    def run(self, job: Job) -> list[Answer]:
        """Keep `job.streams` sequences running until all prompts are answered."""
        todo, running, made = list(reversed(job.prompts)), list[tuple[Any, Answer]](), list[Answer]()
        while todo or running:
            while todo and len(running) < job.streams:
                running.append((self._begin(todo.pop(), job.tokens), Answer(time.perf_counter(), [], 0)))
            self._pipeline.step()
            running = [(handle, read(handle, answer)) for handle, answer in running]
            made += [answer for handle, answer in running if handle.get_status().name != "RUNNING"]
            running = [pair for pair in running if pair[0].get_status().name == "RUNNING"]
        return made

    def _begin(self, prompt: list[int], tokens: int) -> Any:
        self._count += 1
        config = scheduler.generation_config(Generation(prompt, tokens, self._ends, top_k=1))
        return self._pipeline.add_request(self._count, ov.Tensor(np.array([prompt], np.int64)), config)


def read(handle: Any, answer: Answer) -> Answer:
    """Return the answer with the tokens of the last step."""
    count = 0
    while handle.can_read():
        count += sum(len(output.generated_ids) for output in handle.read().values())
    times = [*answer.times, time.perf_counter()] if count else answer.times
    return Answer(answer.sent, times, answer.tokens + count)


if __name__ == "__main__":
    run_jobs(Pipeline(Path(sys.argv[1]), Limits(int(sys.argv[2]), int(sys.argv[3]))).run)
