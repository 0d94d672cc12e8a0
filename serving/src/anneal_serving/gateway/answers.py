"""OpenAI's responses: whole answers, streamed chunks, the list of models."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from anneal_serving.gateway.generation import Chosen, Piece


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
    logprobs: bool

    def whole(self, answer: Piece, usage: Usage) -> dict[str, Any]:
        """Return a response that is not streamed."""
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        content = {"message": message} if self.chat else {"text": answer.text}
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": [self._choice(content, answer)], "usage": usage.body}

    def opening(self) -> dict[str, Any]:
        """Return a chat's first chunk."""
        delta = {"delta": {"role": "assistant", "content": ""}}
        return {**self._head(self._part), "choices": [self._choice(delta, Piece(""))]}

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """Return one part of a streamed response."""
        delta = {"content": piece.text} if piece.text else {}
        content = {"delta": delta} if self.chat else {"text": piece.text}
        return {**self._head(self._part), "choices": [self._choice(content, piece)]}

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """Return the last part, when the client asked for usage."""
        return {**self._head(self._part), "choices": [], "usage": usage.body}

    def _choice(self, content: dict[str, Any], piece: Piece) -> dict[str, Any]:
        logprobs = (_chat_logprobs if self.chat else _text_logprobs)(piece.tokens) if self.logprobs else None
        return {"index": 0, **content, "logprobs": logprobs, "finish_reason": piece.finish}

    @property
    def _part(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self.chat else "cmpl"
        head = {"id": f"{prefix}-{self.identity}", "object": kind}
        return {**head, "created": self.created, "model": self.model}


def _chat_logprobs(tokens: Sequence[Chosen]) -> dict[str, Any]:
    found = [
        {"token": _text(each), "logprob": each.logprob, "bytes": list(each.written), "top_logprobs": []}
        for each in tokens
    ]
    return {"content": found, "refusal": None}


def _text_logprobs(tokens: Sequence[Chosen]) -> dict[str, Any]:
    return {
        "tokens": [_text(each) for each in tokens],
        "token_logprobs": [each.logprob for each in tokens],
        "top_logprobs": None,
        "text_offset": [],
    }


def _text(token: Chosen) -> str:
    return token.written.decode(errors="replace")


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
