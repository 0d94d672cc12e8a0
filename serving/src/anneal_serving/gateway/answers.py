"""OpenAI's responses: whole answers, streamed chunks, the list of models."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Usage:
    """Tokens of a request."""

    prompt: int
    completion: int

    @property
    def body(self) -> dict[str, int]:
        """OpenAI's form."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }


@dataclass(frozen=True)
class Form:
    """What is the same in every part of one response."""

    identity: str
    created: int
    model: str
    chat: bool

    def whole(self, text: str, finish: str, usage: Usage) -> dict[str, Any]:
        """Return a response that is not streamed."""
        content: dict[str, Any] = (
            {"message": {"role": "assistant", "content": text, "refusal": None}}
            if self.chat
            else {"text": text}
        )
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish}
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": [choice], "usage": usage.body}

    def chunk(self, text: str = "", finish: str | None = None, role: bool = False) -> dict[str, Any]:
        """Return one part of a streamed response; `role` opens a chat's."""
        delta = ({"role": "assistant"} if role else {}) | ({"content": text} if text or role else {})
        content: dict[str, Any] = {"delta": delta} if self.chat else {"text": text}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish}
        return {**self._head(self._part), "choices": [choice]}

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """Return the last part, when the client asked for usage."""
        return {**self._head(self._part), "choices": [], "usage": usage.body}

    @property
    def _part(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self.chat else "cmpl"
        head = {"id": f"{prefix}-{self.identity}", "object": kind}
        return {**head, "created": self.created, "model": self.model}


def models(name: str, created: int) -> dict[str, Any]:
    """Return GET /v1/models."""
    return {"object": "list", "data": [model(name, created)]}


def model(name: str, created: int) -> dict[str, Any]:
    """Return GET /v1/models/NAME."""
    return {"id": name, "object": "model", "created": created, "owned_by": "anneal"}


def event(body: dict[str, Any]) -> bytes:
    """Return `body` as a server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
