"""Triton's Python model `tensorrt_llm` on TensorRT-LLM's PyTorch backend, with the same tensors as the other runtimes.

Ready is a replica whose engine has answered a request in every slot; SIGTERM and cancellation are Triton's, as they are for
OpenVINO. The engine of several accelerators starts its own workers, so Triton is one process.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from anneal_serving.triton import generation, protocol
from anneal_serving.triton.lifeline import Lifeline
from anneal_serving.triton.llm_queue import LlmQueue
from anneal_serving.triton.load import Gauges
from anneal_serving.triton.protocol import Sender


class TritonPythonModel:
    """What Triton's stub calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the engine and answer warm-up requests: Triton calls the model ready after this returns."""
        from tensorrt_llm import LLM, SamplingParams  # type: ignore[import-not-found]

        config = json.loads(args["model_config"])
        values = {key: value["string_value"] for key, value in config["parameters"].items()}
        folder = Path(values["engine_dir"])
        self._sequence = int(values["max_sequence_length"])
        self._stop_ids = frozenset(json.loads(values["stop_ids"]))
        self._vocabulary = int(json.loads((folder / "config.json").read_text())["vocab_size"])
        self._gauges = Gauges(pb_utils)
        slots = int(values["max_batch_size"])
        llm = LLM(model=str(folder), **json.loads(values["arguments"]))
        self._queue = LlmQueue(llm, SamplingParams, slots, self._gauges.show)
        generation.warm_up(self._queue, slots, self._sequence, min(self._stop_ids))
        self._lifeline = Lifeline()

    def execute(self, requests: Iterable[Any]) -> None:
        """Queue the requests."""
        for request in requests:
            sender = Sender(request)
            try:
                asked = protocol.read(request, self._stop_ids)
                protocol.check(asked, self._sequence, self._vocabulary)
            except ValueError as error:
                sender.failed(str(error))
            else:
                self._queue.submit(asked, sender)

    def finalize(self) -> None:
        """Finish what runs."""
        self._lifeline.release()
        self._queue.close()
