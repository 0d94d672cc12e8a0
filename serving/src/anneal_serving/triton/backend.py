"""Triton's Python model `tensorrt_llm` on OpenVINO: the tensors of the tensorrtllm backend, decoupled.

Loaded by Triton's stub through the repository's model.py. Requests are handed to the batcher and
answered from its thread; `execute` never waits.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from anneal_serving.triton import grammar, scheduler, tensors
from anneal_serving.triton.grammar import Guide
from anneal_serving.triton.load import Gauges
from anneal_serving.triton.scheduler import Generation, Limits

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


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
        scheduler.warm_up(self._batcher, self._limits, end)

    def execute(self, requests: Iterable[Any]) -> None:
        """Queue the requests."""
        for request in requests:
            sender = Sender(request)
            try:
                generation = read(request, self._stop_ids)
                check(generation, self._limits, self._vocabulary)
            except ValueError as error:
                sender.failed(str(error))
            else:
                self._submit(generation, sender)

    def _submit(self, generation: Generation, sender: "Sender") -> None:
        if generation.guide is None:
            self._batcher.submit(generation, sender)
            return

        def compiled(complaint: str) -> None:
            if complaint:
                sender.failed(tensors.INVALID_GUIDE + complaint)
            else:
                self._batcher.submit(generation, sender)

        self._compiler.submit(generation.guide, compiled)

    def finalize(self) -> None:
        """Finish what runs."""
        self._compiler.close()
        self._batcher.close()


class Sender:
    """A request's way back: token by token when it streams, else all at the end."""

    def __init__(self, request: Any) -> None:
        self._sender = request.get_response_sender()
        self._streaming = bool(scalar(request, tensors.STREAMING, False))
        self._wants_logprobs = bool(scalar(request, tensors.RETURN_LOG_PROBS, False))
        self._held: list[int] = []
        self._logprobs: list[float] = []

    def tokens(self, ids: list[int], logprobs: list[float], final: bool) -> None:
        """Send a step's tokens, or hold them until the end."""
        self._held += ids
        self._logprobs += logprobs
        if final and self.cancelled():
            self._sender.send(flags=_FINAL)
        elif final or self._streaming:
            found = response(self._held, self._logprobs if self._wants_logprobs else None)
            self._sender.send(found, flags=_FINAL if final else 0)
            self._held, self._logprobs = [], []

    def failed(self, message: str) -> None:
        """End the request with an error."""
        error = pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(message))
        self._sender.send(error, flags=_FINAL)

    def cancelled(self) -> bool:
        """Whether the client has gone."""
        return bool(self._sender.is_cancelled())


def response(ids: list[int], logprobs: list[float] | None) -> Any:
    """Return `output_ids` [1, 1, tokens], `sequence_length` [1, 1], and `output_log_probs` [1, 1, tokens] if any."""
    found = [
        pb_utils.Tensor(tensors.OUTPUT_IDS.name, np.array([[ids]], np.int32)),
        pb_utils.Tensor(tensors.SEQUENCE_LENGTH.name, np.array([[len(ids)]], np.int32)),
    ]
    if logprobs is not None:
        found.append(pb_utils.Tensor(tensors.OUTPUT_LOG_PROBS.name, np.array([[logprobs]], np.float32)))
    return pb_utils.InferenceResponse(output_tensors=found)


def array(request: Any, tensor: tensors.Tensor) -> Any:
    """Return a request's tensor as numpy, or None."""
    found = pb_utils.get_input_tensor_by_name(request, tensor.name)
    return None if found is None else found.as_numpy()


def scalar(request: Any, tensor: tensors.Tensor, default: Any) -> Any:
    """Return the one value of a request's tensor."""
    found = array(request, tensor)
    return default if found is None or not found.size else found.reshape(-1)[0].item()


def read(request: Any, default_stops: frozenset[int]) -> Generation:
    """Return what `request` asks for; without end_id the engine's own end tokens stop it."""
    length = scalar(request, tensors.INPUT_LENGTHS, 0)
    end = scalar(request, tensors.END_ID, None)
    words = array(request, tensors.STOP_WORDS)
    more = tensors.single_stops(words.reshape(2, -1).tolist()) if words is not None and words.size else []
    stops = frozenset(more) | (default_stops if end is None else {end})
    return Generation(
        ids=array(request, tensors.INPUT_IDS).reshape(-1)[:length].tolist(),
        max_tokens=scalar(request, tensors.OUTPUT_LENGTH, 0),
        stop_ids=stops,
        temperature=scalar(request, tensors.TEMPERATURE, 1.0),
        top_k=scalar(request, tensors.TOP_K, 0),
        top_p=scalar(request, tensors.TOP_P, 1.0),
        seed=scalar(request, tensors.SEED, 0),
        repetition_penalty=scalar(request, tensors.REPETITION_PENALTY, 1.0),
        presence_penalty=scalar(request, tensors.PRESENCE_PENALTY, 0.0),
        frequency_penalty=scalar(request, tensors.FREQUENCY_PENALTY, 0.0),
        logprobs=scalar(request, tensors.RETURN_LOG_PROBS, False),
        guide=_guide(request),
    )


def _guide(request: Any) -> Guide | None:
    kind = text(request, tensors.GUIDE_TYPE)
    return Guide(kind, text(request, tensors.GUIDE)) if kind else None


def text(request: Any, tensor: tensors.Tensor) -> str:
    """Return the one text of a request's tensor; empty when there is none."""
    found = array(request, tensor)
    return "" if found is None or not found.size else bytes(found.reshape(-1)[0]).decode()


def check(generation: Generation, limits: Limits, vocabulary: int) -> None:
    """Raise ValueError for what the engine would answer with a crash or nonsense."""
    if not generation.ids or generation.max_tokens < 1:
        raise ValueError("input_ids and request_output_len: at least one token each")
    if min(generation.ids) < 0 or max(generation.ids) >= vocabulary:
        raise ValueError(f"input_ids: ids are 0 to {vocabulary - 1}")
    total = len(generation.ids) + generation.max_tokens
    if total > limits.sequence:
        raise ValueError(f"{total} tokens asked for; the engine holds {limits.sequence} (maxSequenceLength)")
