"""Sequences on TensorRT-LLM's LLM API: one event loop in a thread of its own; requests beyond the slots wait here, in order.

Source: `LLM.generate_async`, `RequestOutput` and `SamplingParams` of tensorrt_llm 1.2.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from anneal_serving.triton.generation import Generation, Receiver
from anneal_serving.triton.load import Load

CANCEL_CHECK_SECONDS = 0.1
STATS_SECONDS = 1.0


def sampling(generation: Generation) -> dict[str, Any]:
    """Return the arguments of SamplingParams that ask for `generation`."""
    end = min(generation.stop_ids)
    words: dict[str, Any] = {
        "end_id": end,
        "pad_id": end,
        "stop_token_ids": sorted(generation.stop_ids),
        "max_tokens": generation.max_tokens,
        "repetition_penalty": generation.repetition_penalty,
        "presence_penalty": generation.presence_penalty,
        "frequency_penalty": generation.frequency_penalty,
        "detokenize": False,
    }
    if generation.greedy:
        return words | {"top_k": 1}
    words |= {"temperature": generation.temperature, "top_p": generation.top_p, "seed": generation.seed}
    return words | ({"top_k": generation.top_k} if generation.top_k else {})


class LlmQueue:
    """Runs sequences on an LLM.

    Args:
        llm: an opened tensorrt_llm.LLM.
        params: makes SamplingParams.
        slots: sequences that run at once.
        report: told the load whenever it has changed.
    """

    def __init__(
        self, llm: Any, params: Callable[..., Any], slots: int, report: Callable[[Load], None]
    ) -> None:
        self._llm = llm
        self._params = params
        self._report = report
        self._waiting = self._active = 0
        self._used = 0.0
        self._slots = asyncio.Semaphore(slots)
        self._running: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llm", daemon=True)
        self._thread.start()
        self._stats = asyncio.run_coroutine_threadsafe(self._begin(), self._loop).result()

    def submit(self, generation: Generation, receiver: Receiver) -> None:
        """Queue a sequence; its tokens reach `receiver` from the loop's thread."""
        asyncio.run_coroutine_threadsafe(self._serve(generation, receiver), self._loop)

    def close(self) -> None:
        """Finish what runs, then end the thread and the engine."""
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._llm.shutdown()

    async def _begin(self) -> "asyncio.Task[None]":
        return self._loop.create_task(self._follow())

    async def _finish(self) -> None:
        while self._running:
            await asyncio.wait(self._running)
        self._stats.cancel()
        await asyncio.wait([self._stats])
        await self._loop.shutdown_asyncgens()

    async def _serve(self, generation: Generation, receiver: Receiver) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            self._count(waiting=1)
            async with self._slots:
                self._count(waiting=-1, active=1)
                try:
                    await self._generate(generation, receiver)
                finally:
                    self._count(active=-1)
        finally:
            self._running.discard(task)

    async def _generate(self, generation: Generation, receiver: Receiver) -> None:
        if receiver.cancelled():
            receiver.tokens([], [], final=True)
            return
        try:
            output = self._llm.generate_async(
                generation.ids, self._params(**sampling(generation)), streaming=True
            )
            await self._deliver(output, generation, receiver)
        except Exception as error:
            # Whatever it was, nobody else is left to tell the one who waits.
            receiver.failed(str(error) or repr(error))

    async def _deliver(self, output: Any, generation: Generation, receiver: Receiver) -> None:
        sent, checked = 0, time.monotonic()
        async for step in output:
            found = step.outputs[0]
            ids = list(found.token_ids[sent:])
            sent += len(ids)
            if time.monotonic() - checked > CANCEL_CHECK_SECONDS:
                checked = time.monotonic()
                if receiver.cancelled():
                    output.abort()
                    receiver.tokens([], [], final=True)
                    return
            if step.finished and found.finish_reason == "stop":
                ids.append(_end(found, generation))
            if ids or step.finished:
                receiver.tokens(ids, [], final=step.finished)

    def _count(self, waiting: int = 0, active: int = 0) -> None:
        self._waiting += waiting
        self._active += active
        self._show()

    def _show(self) -> None:
        self._report(Load(self._waiting, self._active, self._used if self._active else 0.0))

    async def _follow(self) -> None:
        """Read the share of the KV cache in use from the engine's statistics, for ever."""
        while True:
            async for stats in self._llm.get_stats_async(timeout=STATS_SECONDS):
                cache = stats.get("kvCacheStats") or {}
                self._used = round(cache.get("usedNumBlocks", 0) / max(1, cache.get("maxNumBlocks", 1)), 3)
                self._show()
            await asyncio.sleep(STATS_SECONDS)


def _end(found: Any, generation: Generation) -> int:
    """Return the token that ended an answer: the LLM leaves it out, and the protocol counts it."""
    return found.stop_reason if isinstance(found.stop_reason, int) else min(generation.stop_ids)
