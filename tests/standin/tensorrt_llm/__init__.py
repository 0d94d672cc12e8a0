"""The part of TensorRT-LLM's LLM API that a replica uses, in torch on a CPU: TensorRT-LLM itself needs a GPU.

Argument names are checked against those that are recorded of 1.2; answers have its attributes and its habits: token ids
grow from step to step, and the token that ends an answer is left out.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from anneal_serving import hugging_face
from anneal_serving.blocks import Block, Weights
from anneal_serving.decoder import from_hugging_face

RECORDED = json.loads((Path(__file__).parents[2] / "unit/serving/golden/tensorrt_llm.json").read_text())


class SamplingParams:
    """Arguments of one request."""

    def __init__(self, **words: Any) -> None:
        unknown = set(words) - set(RECORDED["samplingParams"])
        assert not unknown, unknown
        self.words = words


class LLM:
    """A model in Hugging Face layout."""

    def __init__(self, model: str, **words: Any) -> None:
        unknown = set(words) - set(RECORDED["llmArguments"])
        assert not unknown, unknown
        torch.set_num_threads(1)
        folder = hugging_face.read_local(Path(model))
        self._decoder = from_hugging_face(folder.config)
        weights = Weights(Path(model), folder, torch.device("cpu"))
        names = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
        self._embedding, self._norm, self._head = (weights.tensor(name) for name in names)
        self._blocks = [Block.load(weights, self._decoder, index) for index in range(self._decoder.layers)]
        self._slots = words["max_batch_size"]
        self._active = 0

    def generate(self, ids: list[int], params: SamplingParams) -> Any:
        """Answer with the logits of the prompt."""
        assert params.words["return_context_logits"]
        with torch.no_grad():
            return SimpleNamespace(context_logits=self._logits(ids))

    def generate_async(self, ids: list[int], params: SamplingParams, streaming: bool) -> "Output":
        """Answer token by token, the likeliest each time."""
        assert streaming
        assert self._active < self._slots, "more at once than slots"
        return Output(self, ids, params.words)

    async def get_stats_async(self, timeout: float) -> AsyncIterator[dict[str, Any]]:
        """Yield one look at the cache."""
        yield {"kvCacheStats": {"usedNumBlocks": self._active, "maxNumBlocks": 8}}

    def shutdown(self) -> None:
        """End."""

    def next_token(self, ids: list[int]) -> int:
        """Return the likeliest token after `ids`."""
        with torch.no_grad():
            return int(self._logits(ids)[-1].argmax())

    def _logits(self, ids: list[int]) -> torch.Tensor:
        hidden = self._embedding[torch.tensor(ids)]
        for block in self._blocks:
            hidden = block.forward(self._decoder, hidden, lambda *_: None)
        scale = torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self._decoder.epsilon)
        return (hidden * scale * self._norm) @ self._head.T


class Output:
    """A request on its way."""

    def __init__(self, llm: LLM, ids: list[int], words: dict[str, Any]) -> None:
        self._llm = llm
        self._ids = ids
        self._words = words
        self.aborted = False

    def abort(self) -> None:
        """Stop."""
        self.aborted = True

    async def __aiter__(self) -> AsyncIterator[Any]:
        found: list[int] = []
        self._llm._active += 1
        try:
            while not self.aborted:
                await asyncio.sleep(0)
                token = self._llm.next_token([*self._ids, *found])
                ended = token in self._words["stop_token_ids"]
                if not ended:
                    found.append(token)
                full = len(found) >= self._words["max_tokens"]
                reason = "stop" if ended else "length" if full else None
                output = SimpleNamespace(
                    token_ids=found, finish_reason=reason, stop_reason=token if ended else None
                )
                yield SimpleNamespace(outputs=[output], finished=ended or full)
                if ended or full:
                    return
        finally:
            self._llm._active -= 1
