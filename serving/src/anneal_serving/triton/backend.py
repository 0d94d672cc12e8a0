"""Triton's Python model `tensorrt_llm` on OpenVINO.

Loaded by Triton's stub through the repository's model.py. Requests are handed to the batcher and
answered from its thread; `execute` never waits.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from anneal_serving.triton import generation, grammar, protocol, scheduler, tensors
from anneal_serving.triton.generation import Generation
from anneal_serving.triton.grammar import Guide
from anneal_serving.triton.lifeline import Lifeline
from anneal_serving.triton.load import Gauges
from anneal_serving.triton.protocol import Sender
from anneal_serving.triton.scheduler import Limits


class TritonPythonModel:
    """What Triton's stub calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the engine and answer warm-up requests: Triton calls the model ready after this returns."""
        config = json.loads(args["model_config"])
        values = {key: value["string_value"] for key, value in config["parameters"].items()}
        folder = Path(values["engine_dir"])
        self._limits = Limits(int(values["max_batch_size"]), int(values["max_sequence_length"]))
        self._stop_ids = frozenset(json.loads(values["stop_ids"]))
        self._vocabulary = scheduler.vocabulary_of(folder)
        self._gauges = Gauges(pb_utils)
        end = min(self._stop_ids)
        tokenizer = grammar.tokenizer_of(folder / "tokenizer.json", end, self._vocabulary)
        self._compiler = grammar.Compiler(tokenizer, self._vocabulary, end)
        properties = json.loads(values["properties"])
        pipeline = scheduler.open_pipeline(folder, self._limits, properties, tokenizer)
        self._batcher = scheduler.Batcher(pipeline, self._limits.slots, self._gauges.show)
        generation.warm_up(self._batcher, self._limits.slots, self._limits.sequence, end)
        self._lifeline = Lifeline()

    def execute(self, requests: Iterable[Any]) -> None:
        """Queue the requests."""
        for request in requests:
            sender = Sender(request)
            try:
                asked = replace(protocol.read(request, self._stop_ids), guide=_guide(request))
                protocol.check(asked, self._limits.sequence, self._vocabulary)
            except ValueError as error:
                sender.failed(str(error))
            else:
                self._submit(asked, sender)

    def _submit(self, asked: Generation, sender: Sender) -> None:
        if asked.guide is None:
            self._batcher.submit(asked, sender)
            return

        def compiled(complaint: str) -> None:
            if complaint:
                sender.failed(tensors.INVALID_GUIDE + complaint)
            else:
                self._batcher.submit(asked, sender)

        self._compiler.submit(asked.guide, compiled)

    def finalize(self) -> None:
        """Finish what runs."""
        self._lifeline.release()
        self._compiler.close()
        self._batcher.close()


def _guide(request: Any) -> Guide | None:
    kind = protocol.text(request, tensors.GUIDE_TYPE)
    return Guide(kind, protocol.text(request, tensors.GUIDE)) if kind else None
