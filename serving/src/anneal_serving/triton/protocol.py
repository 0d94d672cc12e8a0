"""Requests and answers of Triton's Python models `tensorrt_llm`: the tensors of the tensorrtllm backend, decoupled."""

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from anneal_serving.triton import tensors
from anneal_serving.triton.generation import Generation

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


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
    )


def text(request: Any, tensor: tensors.Tensor) -> str:
    """Return the one text of a request's tensor; empty when there is none."""
    found = array(request, tensor)
    return "" if found is None or not found.size else bytes(found.reshape(-1)[0]).decode()


def check(generation: Generation, sequence: int, vocabulary: int) -> None:
    """Raise ValueError for what the engine would answer with a crash or nonsense."""
    if not generation.ids or generation.max_tokens < 1:
        raise ValueError("input_ids and request_output_len: at least one token each")
    if min(generation.ids) < 0 or max(generation.ids) >= vocabulary:
        raise ValueError(f"input_ids: ids are 0 to {vocabulary - 1}")
    total = len(generation.ids) + generation.max_tokens
    if total > sequence:
        raise ValueError(f"{total} tokens asked for; the engine holds {sequence} (maxSequenceLength)")
