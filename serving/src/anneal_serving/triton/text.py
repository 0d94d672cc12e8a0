"""Triton's Python models `preprocessing` and `postprocessing`: text to ids and back around the engine.

For clients that speak Triton's own protocol through the ensemble; the gateway sends ids and needs neither.
Tensors are those of `inflight_batcher_llm` in TensorRT-LLM 1.2.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from anneal_runtime.chat import ChatEncoder
from anneal_serving.triton.load import Gauges, Relay


def _parameters(args: dict[str, str]) -> dict[str, str]:
    parameters = json.loads(args["model_config"])["parameters"]
    return {key: value["string_value"] for key, value in parameters.items()}


def _encoder(args: dict[str, str]) -> ChatEncoder:
    return ChatEncoder.load(Path(_parameters(args)["tokenizer_dir"]))


def _array(request: Any, name: str) -> Any:
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()


class Preprocessing:
    """QUERY [1] and REQUEST_OUTPUT_LEN [1] to ids, their number, and the ids that end an answer.

    Beside an engine whose backend is not a Python model it also passes the engine's load on.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Read the tokenizer; start the relay where one is asked for."""
        self._encoder = _encoder(args)
        url = _parameters(args).get("metrics_url")
        self._gauges = Gauges(pb_utils) if url else None
        self._relay = Relay(url, self._gauges.show) if url and self._gauges else None

    def finalize(self) -> None:
        """End the relay."""
        if self._relay is not None:
            self._relay.close()

    def execute(self, requests: Iterable[Any]) -> list[Any]:
        """Encode every request's text."""
        return [self._encode(request) for request in requests]

    def _encode(self, request: Any) -> Any:
        text = _array(request, "QUERY").reshape(-1)[0].decode()
        ids = self._encoder.tokenizer.encode(text).ids
        eos = self._encoder.eos_ids
        values = {
            "INPUT_ID": [ids],
            "REQUEST_INPUT_LEN": [[len(ids)]],
            "REQUEST_OUTPUT_LEN": _array(request, "REQUEST_OUTPUT_LEN").reshape(1, 1),
            "STOP_WORDS_IDS": [[eos, list(range(1, len(eos) + 1))]],
            "OUT_END_ID": [[eos[0]]],
            "OUT_PAD_ID": [[eos[0]]],
        }
        outputs = [pb_utils.Tensor(name, np.array(value, np.int32)) for name, value in values.items()]
        return pb_utils.InferenceResponse(output_tensors=outputs)


class Postprocessing:
    """TOKENS_BATCH [beams, tokens] and SEQUENCE_LENGTH [beams] to OUTPUT [beams]."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the tokenizer."""
        self._encoder = _encoder(args)

    def execute(self, requests: Iterable[Any]) -> list[Any]:
        """Decode every request's ids."""
        return [self._decode(request) for request in requests]

    def _decode(self, request: Any) -> Any:
        beams = _array(request, "TOKENS_BATCH").reshape(-1, _array(request, "TOKENS_BATCH").shape[-1])
        lengths = _array(request, "SEQUENCE_LENGTH").reshape(-1)
        pairs = zip(beams, lengths, strict=True)
        texts = [self._encoder.decode(ids[:length].tolist()).encode() for ids, length in pairs]
        output = pb_utils.Tensor("OUTPUT", np.array([texts], np.object_))
        return pb_utils.InferenceResponse(output_tensors=[output])
