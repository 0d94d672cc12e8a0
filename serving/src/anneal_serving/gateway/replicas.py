"""The client of Triton replicas: token ids out, token ids in, by gRPC streams.

Tensors are those of the tensorrtllm backend, which both runtimes speak.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

import grpc  # type: ignore[import-untyped]
import numpy as np
from grpc import aio
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelStreamInferResponse
from tritonclient.utils import serialize_byte_tensor

from anneal_serving.gateway.requests import Ask
from anneal_serving.triton import tensors
from anneal_serving.triton.tensors import Tensor

_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
_TYPES: dict[str, np.dtype[Any]] = {
    "INT32": np.dtype(np.int32),
    "FP32": np.dtype(np.float32),
    "UINT64": np.dtype(np.uint64),
    "BOOL": np.dtype(np.bool_),
    "STRING": np.dtype(np.object_),
}
_CHANNEL = [
    # A node that is cut off sends no end of connection: pings find out within seconds.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
_AWAY = ("stopping", "not ready", "unavailable", "maximum queue size", "unloaded")


class Unavailable(Exception):
    """The replica cannot take the request or has gone; another may take it."""


class Failed(Exception):
    """The replica answered with an error; another would answer the same."""


class InvalidGuide(Failed):
    """The engine cannot compile what an answer shall match."""


@dataclass(frozen=True)
class Job:
    """What a replica is asked for."""

    identity: str
    ids: list[int]
    max_tokens: int
    eos_ids: list[int]
    ask: Ask


def inputs_of(job: Job) -> list[tuple[Tensor, Any]]:
    """Return the tensors of a request, without their batch dimension's type: one sequence."""
    ask = job.ask
    greedy = ask.temperature == 0
    stops = tensors.stop_words(job.eos_ids)
    guide = ask.guide
    extra: list[tuple[Tensor, Any]] = [(tensors.RETURN_LOG_PROBS, [[True]])] if ask.logprobs else []
    if guide is not None:
        extra.append((tensors.GUIDE_TYPE, [[guide.kind.encode()]]))
        extra.append((tensors.GUIDE, [[guide.text.encode()]]))
    return [
        (tensors.INPUT_IDS, [job.ids]),
        (tensors.INPUT_LENGTHS, [[len(job.ids)]]),
        (tensors.OUTPUT_LENGTH, [[job.max_tokens]]),
        (tensors.END_ID, [[job.eos_ids[0]]]),
        (tensors.PAD_ID, [[job.eos_ids[0]]]),
        (tensors.STOP_WORDS, [stops]),
        (tensors.TEMPERATURE, [[1.0 if greedy else ask.temperature]]),
        (tensors.TOP_K, [[1 if greedy else ask.top_k]]),
        (tensors.TOP_P, [[1.0 if greedy else ask.top_p]]),
        (tensors.SEED, [[ask.seed]]),
        (tensors.PRESENCE_PENALTY, [[ask.presence_penalty]]),
        (tensors.FREQUENCY_PENALTY, [[ask.frequency_penalty]]),
        (tensors.STREAMING, [[True]]),
        (tensors.EXCLUDE_INPUT, [[True]]),
        *extra,
    ]


def request_of(job: Job) -> ModelInferRequest:
    """Return the request as it goes over the wire (KServe's inference protocol, version 2)."""
    request = ModelInferRequest(model_name=tensors.MODEL, id=job.identity)
    for tensor, value in inputs_of(job):
        kind = "BYTES" if tensor.kind == "STRING" else tensor.kind
        array = np.array(value, _TYPES[tensor.kind])
        request.inputs.add(name=tensor.name, datatype=kind, shape=array.shape)
        raw = serialize_byte_tensor(array).item() if kind == "BYTES" else array.tobytes()
        request.raw_input_contents.append(raw)
    for tensor in tensors.CPU_OUTPUTS if job.ask.logprobs else tensors.OUTPUTS:
        request.outputs.add(name=tensor.name)
    return request


@dataclass(frozen=True)
class Step:
    """What a replica has generated since the step before; `logprobs` is empty unless asked for."""

    ids: list[int]
    logprobs: list[float]


def step_of(response: Any) -> Step:
    """Return the new tokens of a ModelInferResponse: of `output_ids` the first `sequence_length`."""
    names = [output.name for output in response.outputs]
    found = dict(zip(names, response.raw_output_contents, strict=True))
    ids, lengths, logprobs = (
        np.frombuffer(found.get(tensor.name, b""), _TYPES[tensor.kind]).tolist()
        for tensor in (tensors.OUTPUT_IDS, tensors.SEQUENCE_LENGTH, tensors.OUTPUT_LOG_PROBS)
    )
    return Step(ids[: lengths[0]] if lengths else ids, logprobs)


class Source(Protocol):
    """Where tokens come from."""

    def stream(self, address: str, job: Job, timeout: float) -> AsyncGenerator[Step, None]:
        """Yield what the replica at `address` generates; see Replicas.stream."""


class _Link:
    """A connection to a replica. The service's method streams both ways; what we have to say is one message, and sent as
    such it goes out with the call's beginning and end in one piece."""

    def __init__(self, address: str) -> None:
        self.channel = aio.insecure_channel(address, options=_CHANNEL)
        self.ask = self.channel.unary_stream(
            _METHOD, ModelInferRequest.SerializeToString, ModelStreamInferResponse.FromString
        )


class Replicas:
    """Connections to replicas: opened when first used, closed when a replica has left and nothing runs on it.

    Args:
        known: returns the addresses of the replicas there are.
    """

    def __init__(self, known: Callable[[], Collection[str]]) -> None:
        self._known = known
        self._links: dict[str, _Link] = {}
        self._streams: Counter[str] = Counter()

    async def stream(self, address: str, job: Job, timeout: float) -> AsyncGenerator[Step, None]:
        """Yield tokens as the replica generates them; closing the generator cancels the request there.

        Raises:
            Unavailable: before or while generating, the replica went away.
            Failed: the replica refused the request.
            TimeoutError: `timeout` seconds were not enough.
        """
        self._streams[address] += 1
        call = self._link(address).ask(request_of(job), timeout=timeout)
        try:
            async for response in call:
                if response.error_message:
                    raise _error(response.error_message)
                yield step_of(response.infer_response)
        except grpc.RpcError as error:
            raise _rpc_error(error) from error
        finally:
            call.cancel()
            self._streams[address] -= 1
            await self._prune()

    def _link(self, address: str) -> _Link:
        if address not in self._links:
            self._links[address] = _Link(address)
        return self._links[address]

    async def _prune(self) -> None:
        for address in set(self._links).difference(self._known()):
            if not self._streams[address]:
                await self._links.pop(address).channel.close()


def _error(message: str) -> Exception:
    if tensors.INVALID_GUIDE in message:
        return InvalidGuide(message.partition(tensors.INVALID_GUIDE)[2])
    away = any(word in message.lower() for word in _AWAY)
    return Unavailable(message) if away else Failed(message)


def _rpc_error(error: grpc.RpcError) -> Exception:
    code, details = error.code(), str(error.details())
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimeoutError(details)
    lost = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL)
    return Unavailable(details) if code in lost else Failed(details)
