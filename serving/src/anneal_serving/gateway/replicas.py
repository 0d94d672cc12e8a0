"""The client of Triton replicas: token ids out, token ids in, by gRPC streams.

Tensors are those of the tensorrtllm backend, which both runtimes speak.
"""

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

import grpc  # type: ignore[import-untyped]
import numpy as np
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient

from anneal_serving.gateway.requests import Ask
from anneal_serving.triton import tensors
from anneal_serving.triton.tensors import Tensor

_TYPES: dict[str, type] = {
    "INT32": np.int32,
    "FP32": np.float32,
    "UINT64": np.uint64,
    "BOOL": np.bool_,
    "STRING": np.object_,
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


def new_ids(output_ids: Any, length: Any) -> list[int]:
    """Return a response's token ids: `output_ids` [1, 1, n], of which `sequence_length` [1, 1] are new."""
    if output_ids is None or not output_ids.size:
        return []
    count = int(length.reshape(-1)[0]) if length is not None else output_ids.size
    return [int(token) for token in output_ids.reshape(-1)[:count]]


@dataclass(frozen=True)
class Step:
    """What a replica has generated since the step before; `logprobs` is empty unless asked for."""

    ids: list[int]
    logprobs: list[float]


def step_of(result: Any) -> Step:
    """Return a response's new tokens."""
    length = result.as_numpy(tensors.SEQUENCE_LENGTH.name)
    logprobs = result.as_numpy(tensors.OUTPUT_LOG_PROBS.name)
    found = [] if logprobs is None else [float(value) for value in logprobs.reshape(-1)]
    return Step(new_ids(result.as_numpy(tensors.OUTPUT_IDS.name), length), found)


class Source(Protocol):
    """Where tokens come from."""

    def stream(self, address: str, job: Job, timeout: float) -> AsyncGenerator[Step, None]:
        """Yield what the replica at `address` generates; see Replicas.stream."""


class Replicas:
    """Connections to replicas: opened when first used, closed when a replica has left and nothing runs on it.

    Args:
        known: returns the addresses of the replicas there are.
    """

    def __init__(self, known: Callable[[], Collection[str]]) -> None:
        self._known = known
        self._clients: dict[str, InferenceServerClient] = {}
        self._streams: Counter[str] = Counter()

    async def stream(self, address: str, job: Job, timeout: float) -> AsyncGenerator[Step, None]:
        """Yield tokens as the replica generates them; closing the generator cancels the request there.

        Raises:
            Unavailable: before or while generating, the replica went away.
            Failed: the replica refused the request.
            TimeoutError: `timeout` seconds were not enough.
        """
        self._streams[address] += 1
        call = self._client(address).stream_infer(_requests(job), stream_timeout=timeout)
        try:
            async for result, error in call:
                if error is not None:
                    raise _error(error.message())
                yield step_of(result)
        except grpc.RpcError as error:
            raise _rpc_error(error) from error
        finally:
            call.cancel()
            self._streams[address] -= 1
            await self._prune()

    def _client(self, address: str) -> InferenceServerClient:
        if address not in self._clients:
            self._clients[address] = InferenceServerClient(address, channel_args=_CHANNEL)
        return self._clients[address]

    async def _prune(self) -> None:
        for address in set(self._clients).difference(self._known()):
            if not self._streams[address]:
                await self._clients.pop(address).close()


async def _requests(job: Job) -> AsyncIterator[dict[str, Any]]:
    outputs = tensors.CPU_OUTPUTS if job.ask.logprobs else tensors.OUTPUTS
    yield {
        "model_name": tensors.MODEL,
        "request_id": job.identity,
        "inputs": [_input(tensor, value) for tensor, value in inputs_of(job)],
        "outputs": [InferRequestedOutput(tensor.name) for tensor in outputs],
    }


def _input(tensor: Tensor, value: Any) -> InferInput:
    array: Any = np.array(value, _TYPES[tensor.kind])
    kind = "BYTES" if tensor.kind == "STRING" else tensor.kind
    found = InferInput(tensor.name, list(array.shape), kind)
    found.set_data_from_numpy(array)
    return found


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
