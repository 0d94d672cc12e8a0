"""Triton's Python model `tensorrt_llm_bls`: text in, text out, by calls to the models beside it (business logic scripting).

What the ensemble does, for clients that stream: the ensemble decodes every step by itself, here text is sent once it is certain,
so a character of several tokens comes whole. Tensors are those of `inflight_batcher_llm` in TensorRT-LLM 1.2.
"""

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from anneal_runtime.chat import ChatEncoder
from anneal_serving.gateway.text import Detokenizer
from anneal_serving.triton import tensors

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
_ENCODED = {
    "INPUT_ID": tensors.INPUT_IDS,
    "REQUEST_INPUT_LEN": tensors.INPUT_LENGTHS,
    "REQUEST_OUTPUT_LEN": tensors.OUTPUT_LENGTH,
    "STOP_WORDS_IDS": tensors.STOP_WORDS,
    "OUT_END_ID": tensors.END_ID,
    "OUT_PAD_ID": tensors.PAD_ID,
}
"""What `preprocessing` returns, and what the engine's model is given it as."""
_PASSED = {
    "temperature": tensors.TEMPERATURE,
    "top_k": tensors.TOP_K,
    "top_p": tensors.TOP_P,
    "seed": tensors.SEED,
}


class TritonPythonModel:
    """What Triton's stub calls. A request takes a thread while it is answered; there are as many as the engine has slots."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the tokenizer."""
        parameters = json.loads(args["model_config"])["parameters"]
        values = {key: value["string_value"] for key, value in parameters.items()}
        self._encoder = ChatEncoder.load(Path(values["tokenizer_dir"]))
        self._threads = ThreadPoolExecutor(int(values["max_batch_size"]), "bls")

    def execute(self, requests: Iterable[Any]) -> None:
        """Queue the requests; their tensors are read now, as they go with this call."""
        for request in requests:
            given = {name: found for name in _GIVEN if (found := _array(request, name)) is not None}
            self._threads.submit(self._answer, given, request.get_response_sender())

    def finalize(self) -> None:
        """Finish what runs."""
        self._threads.shutdown()

    def _answer(self, given: dict[str, Any], sender: Any) -> None:
        try:
            for text in self._texts(given):
                if sender.is_cancelled():
                    break
                sender.send(_response(text))
        except Exception as error:
            # Whatever it was, nobody else is left to tell the one who waits.
            failed = pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(str(error)))
            sender.send(failed, flags=_FINAL)
        else:
            sender.send(flags=_FINAL)

    def _texts(self, given: dict[str, Any]) -> Iterator[str]:
        """Yield the answer: as it becomes certain when it shall stream, else whole."""
        written = self._written(
            _encoded(given) | {_PASSED[name].name: given[name] for name in _PASSED if name in given}
        )
        if _streaming(given):
            yield from filter(None, written)
        else:
            yield "".join(written)

    def _written(self, inputs: dict[str, Any]) -> Iterator[str]:
        detokenizer = Detokenizer(self._encoder.decode)
        for ids in _generated(inputs):
            yield detokenizer.push(ids)
        yield detokenizer.flush()


_GIVEN = ("text_input", "max_tokens", *_PASSED, "stream")


def _array(request: Any, name: str) -> Any:
    found = pb_utils.get_input_tensor_by_name(request, name)
    return None if found is None else found.as_numpy()


def _streaming(given: dict[str, Any]) -> bool:
    return "stream" in given and bool(given["stream"].reshape(-1)[0])


def _encoded(given: dict[str, Any]) -> dict[str, Any]:
    """Return the engine's inputs that follow from the text."""
    asked = {"QUERY": given["text_input"], "REQUEST_OUTPUT_LEN": given["max_tokens"]}
    (answer,) = _called(tensors.PREPROCESSING, asked, list(_ENCODED), decoupled=False)
    return {_ENCODED[tensor.name()].name: tensor.as_numpy() for tensor in answer.output_tensors()}


def _generated(inputs: dict[str, Any]) -> Iterator[list[int]]:
    """Yield the engine's tokens, step by step."""
    asked = inputs | {tensors.STREAMING.name: np.array([[True]])}
    wanted = [tensor.name for tensor in tensors.OUTPUTS]
    for answer in _called(tensors.MODEL, asked, wanted, decoupled=True):
        found = {tensor.name(): tensor.as_numpy() for tensor in answer.output_tensors()}
        if found:  # the last response may be nothing but the end
            ids, length = found[tensors.OUTPUT_IDS.name], found[tensors.SEQUENCE_LENGTH.name]
            yield ids.reshape(-1)[: int(length.reshape(-1)[0])].tolist()


def _called(model: str, inputs: dict[str, Any], outputs: list[str], *, decoupled: bool) -> Iterator[Any]:
    """Yield what a model of this server answers.

    Raises:
        TritonModelException: it answers with an error.
    """
    request = pb_utils.InferenceRequest(
        model_name=model,
        requested_output_names=outputs,
        inputs=[pb_utils.Tensor(name, value) for name, value in inputs.items()],
    )
    answers = request.exec(decoupled=True) if decoupled else [request.exec()]
    for answer in answers:
        if answer.has_error():
            raise pb_utils.TritonModelException(answer.error().message())
        yield answer


def _response(text: str) -> Any:
    output = pb_utils.Tensor("text_output", np.array([[text.encode()]], np.object_))
    return pb_utils.InferenceResponse(output_tensors=[output])
