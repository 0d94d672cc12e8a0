"""Continuous batching on a CPU: one thread steps OpenVINO GenAI's paged pipeline; requests join and leave in flight.

The pipeline is given token ids only, so no tokenizer is loaded. It does not bound how many sequences run
at once (max_num_seqs is not applied with chunked prefill), so requests beyond `slots` wait here, in order.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai

from anneal_serving.triton.generation import Generation, Receiver
from anneal_serving.triton.load import Load

KV_BLOCK = 32
"""Tokens of one block of the CPU plugin's paged cache."""
PREFILL_TOKENS = 256
"""Prompt tokens of one step: long prompts are taken in parts, so running sequences keep their pace."""
CANCEL_CHECK_SECONDS = 0.1


@dataclass(frozen=True)
class Limits:
    """What an engine serves at once and at most."""

    slots: int
    sequence: int

    @property
    def kv_blocks(self) -> int:
        """Blocks that hold every slot's longest sequence, so a running sequence is never dropped."""
        return self.slots * (math.ceil(self.sequence / KV_BLOCK) + 1)


@dataclass
class _Sequence:
    generation: Generation
    receiver: Receiver
    handle: Any = field(default=None)


def open_pipeline(folder: Path, limits: Limits, properties: dict[str, str], tokenizer: Any) -> Any:
    """Return the paged pipeline of the IR in `folder`; of the tokenizer only the vocabulary is used."""
    scheduler = genai.SchedulerConfig()
    scheduler.num_kv_blocks = limits.kv_blocks
    scheduler.cache_size = 0
    scheduler.max_num_seqs = limits.slots
    scheduler.max_num_batched_tokens = max(PREFILL_TOKENS, limits.slots)
    scheduler.dynamic_split_fuse = True
    scheduler.enable_prefix_caching = True
    return genai.ContinuousBatchingPipeline(str(folder), tokenizer, scheduler, "CPU", **properties)


def vocabulary_of(folder: Path) -> int:
    """Return how many token ids the engine in `folder` knows."""
    logits = ov.Core().read_model(folder / "openvino_model.xml").output("logits")
    return int(logits.get_partial_shape()[2].get_length())


def generation_config(generation: Generation) -> Any:
    """Return OpenVINO GenAI's form of `generation`."""
    config = genai.GenerationConfig()
    config.max_new_tokens = generation.max_tokens
    # GenAI refuses a pipeline without a tokenizer whose request names no end: one of the ids stands for it.
    config.set_eos_token_id(min(generation.stop_ids))
    config.stop_token_ids = set(generation.stop_ids)
    config.do_sample = not generation.greedy
    config.repetition_penalty = generation.repetition_penalty
    config.presence_penalty = generation.presence_penalty
    config.frequency_penalty = generation.frequency_penalty
    config.logprobs = int(generation.logprobs)
    if generation.guide is not None:
        config.structured_output_config = generation.guide.config()
    if config.do_sample:
        config.temperature = generation.temperature
        config.top_p = generation.top_p
        config.rng_seed = generation.seed
        if generation.top_k:
            config.top_k = generation.top_k
    return config


class Batcher:
    """Runs sequences on a pipeline.

    Args:
        pipeline: an opened ContinuousBatchingPipeline.
        slots: sequences that run at once.
        report: told the load whenever it has changed.
    """

    def __init__(self, pipeline: Any, slots: int, report: Callable[[Load], None]) -> None:
        self._pipeline = pipeline
        self._slots = slots
        self._report = report
        self._reported = Load()
        self._kv_used = 0.0
        self._changed = threading.Condition()
        self._waiting: deque[_Sequence] = deque()
        self._active: list[_Sequence] = []
        self._closed = False
        self._next_id = 0
        self._next_check = 0.0
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, generation: Generation, receiver: Receiver) -> None:
        """Queue a sequence; its tokens reach `receiver` from the batcher's thread."""
        with self._changed:
            self._waiting.append(_Sequence(generation, receiver))
            self._changed.notify()

    def close(self) -> None:
        """Finish what runs, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._wait():
            self._drop_cancelled()
            self._admit()
            self._show()
            if self._active:
                self._step()
            self._show()

    def _wait(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting or self._active)
            return bool(self._waiting or self._active)

    def _admit(self) -> None:
        while len(self._active) < self._slots:
            with self._changed:
                if not self._waiting:
                    return
                sequence = self._waiting.popleft()
            self._start(sequence)

    def _start(self, sequence: _Sequence) -> None:
        self._next_id += 1
        ids = ov.Tensor(np.array([sequence.generation.ids], np.int64))
        try:
            config = generation_config(sequence.generation)
            sequence.handle = self._pipeline.add_request(self._next_id, ids, config)
        except RuntimeError as error:
            sequence.receiver.failed(str(error))
            return
        self._active.append(sequence)

    def _step(self) -> None:
        try:
            self._pipeline.step()
        except RuntimeError as error:
            for sequence in self._active:
                sequence.handle.cancel()
                sequence.receiver.failed(str(error))
            self._active = []
            return
        self._active = [sequence for sequence in self._active if self._deliver(sequence)]
        # Counts blocks of live sequences only.
        self._kv_used = round(self._pipeline.get_metrics().cache_usage / 100, 3)

    def _deliver(self, sequence: _Sequence) -> bool:
        """Hand on the tokens of the last step; return whether the sequence goes on."""
        ids: list[int] = []
        logprobs: list[float] = []
        while sequence.handle.can_read():
            for output in sequence.handle.read().values():
                ids += output.generated_ids
                logprobs += output.generated_log_probs
        status = sequence.handle.get_status().name
        if status == "IGNORED":
            sequence.receiver.failed("the KV cache is full; lower maxBatchSize or maxSequenceLength")
            return False
        if ids or status != "RUNNING":
            sequence.receiver.tokens(ids, logprobs, final=status != "RUNNING")
        return bool(status == "RUNNING")

    def _drop_cancelled(self) -> None:
        """Free the slots of requests nobody waits for; asked rarely, each answer is a trip to the server."""
        if time.monotonic() < self._next_check:
            return
        self._next_check = time.monotonic() + CANCEL_CHECK_SECONDS
        for sequence in [*self._active, *self._waiting]:
            if sequence.receiver.cancelled():
                self._drop(sequence)

    def _drop(self, sequence: _Sequence) -> None:
        if sequence.handle is not None:
            sequence.handle.cancel()
            self._active.remove(sequence)
        else:
            with self._changed:
                self._waiting.remove(sequence)
        sequence.receiver.tokens([], [], final=True)

    def _show(self) -> None:
        load = Load(len(self._waiting), len(self._active), self._kv_used if self._active else 0.0)
        if load != self._reported:
            self._reported = load
            self._report(load)
