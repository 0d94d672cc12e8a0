"""OpenAI's requests as types, and what the engine is asked for in their place.

A field that is not built is refused by name; one that asks for nothing (its default) is accepted.
"""

import secrets
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anneal_serving.gateway import guides
from anneal_serving.gateway.errors import ApiError
from anneal_serving.gateway.guides import Guide, ResponseFormat

Parsed = TypeVar("Parsed", bound=BaseModel)
Value = TypeVar("Value")
COMPLETION_TOKENS = 16
"""OpenAI's default of /v1/completions."""


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class TextPart(_Request):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Message(_Request):
    """A turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """Return role and text as the chat template takes them."""
        parts = self.content
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(_Request):
    """Options of a streamed answer."""

    include_usage: bool = False
    include_obfuscation: bool = False


Stop = Annotated[str, Field(min_length=1, max_length=256)]


class Sampling(_Request):
    """What chat and text completions have in common."""

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    response_format: ResponseFormat | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    # Said about the request, not asked of the model.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class ChatRequest(Sampling):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class CompletionRequest(Sampling):
    """POST /v1/completions."""

    prompt: str | Annotated[list[int], Field(min_length=1)] | Annotated[list[str], Field(max_length=1)]
    suffix: Annotated[str, Field(min_length=1)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None


@dataclass(frozen=True)
class Ask:
    """A request as the gateway works on it.

    Attributes:
        chat: messages for the chat template, or None.
        prompt: raw text or token ids, or None.
        suffix: what follows the text asked for, which then stands between the two, or None.
        max_tokens: None is as many as the engine's sequence holds.
        logprobs: whether each token's log-probability is wanted.
        seeded: whether the client chose the seed.
    """

    model: str
    chat: list[dict[str, str]] | None
    prompt: str | list[int] | None
    suffix: str | None
    max_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    presence_penalty: float
    frequency_penalty: float
    seed: int
    stops: list[str]
    logprobs: bool
    guide: Guide | None
    seeded: bool
    stream: bool
    usage: bool

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0 or self.top_k == 1

    @property
    def deterministic(self) -> bool:
        """Whether the same request gets the same answer."""
        return self.greedy or self.seeded

    @property
    def size(self) -> int:
        """Characters of the prompt, or its ids."""
        turns = sum(len(turn["content"]) for turn in self.chat or ())
        return turns + len(self.prompt or ()) + len(self.suffix or "")

    @property
    def param(self) -> str:
        """The field that holds the prompt."""
        return "prompt" if self.chat is None else "messages"


def parse_chat(body: bytes) -> Ask:
    """Return what a chat request asks for, or raise ApiError 400 that names the field."""
    request = _parse(ChatRequest, body)
    chat = [message.plain() for message in request.messages]
    if request.top_logprobs:
        raise _chosen_only("top_logprobs")
    limit = request.max_completion_tokens or request.max_tokens
    return _ask(request, limit, chat=chat, logprobs=bool(request.logprobs))


def parse_completion(body: bytes) -> Ask:
    """Return what a text completion asks for, or raise ApiError 400 that names the field."""
    request = _parse(CompletionRequest, body)
    prompt = request.prompt
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str):
        prompt = prompt[0]
    if not prompt:
        raise ApiError(400, "prompt: empty; give text or token ids", param="prompt")
    raw = prompt if isinstance(prompt, str) else [int(token) for token in prompt]
    if request.suffix is not None and not isinstance(raw, str):
        raise ApiError(400, "suffix: needs a prompt of text, not of token ids", param="suffix")
    if request.logprobs:
        raise _chosen_only("logprobs")
    limit = request.max_tokens or COMPLETION_TOKENS
    return _ask(request, limit, prompt=raw, suffix=request.suffix, logprobs=request.logprobs is not None)


def _chosen_only(param: str) -> ApiError:
    text = f"{param}: the engine gives the chosen token's log-probability and no others'; ask for 0"
    return ApiError(400, text, param=param)


def _parse(kind: type[Parsed], body: bytes) -> Parsed:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from error


def _refusal(error: ValidationError) -> ApiError:
    first = error.errors(include_input=False, include_url=False)[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first['msg']}", code="invalid_json")
    # Of a union's branches the location names types too; the field is what stands before them.
    loc = [part for part in first["loc"] if not _is_branch(part)]
    if loc[:1] == ["response_format"] and loc[1:2] and loc[1] in guides.TYPES:
        del loc[1]
    param = ".".join(map(str, loc)) or None
    text = "unknown or not supported; leave it out" if first["type"] == "extra_forbidden" else first["msg"]
    return ApiError(400, f"{param}: {text}", param=param)


def _is_branch(part: str | int) -> bool:
    return isinstance(part, str) and (part in ("str", "constrained-str") or "[" in part)


def _ask(
    request: Sampling,
    limit: int | None,
    *,
    chat: list[dict[str, str]] | None = None,
    prompt: str | list[int] | None = None,
    suffix: str | None = None,
    logprobs: bool,
) -> Ask:
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    options = request.stream_options or StreamOptions()
    return Ask(
        model=request.model,
        chat=chat,
        prompt=prompt,
        suffix=suffix,
        max_tokens=limit,
        temperature=_or(request.temperature, 1.0),
        top_p=_or(request.top_p, 1.0),
        top_k=_or(request.top_k, 0),
        presence_penalty=_or(request.presence_penalty, 0.0),
        frequency_penalty=_or(request.frequency_penalty, 0.0),
        # An engine without a seed starts each request from the same one.
        seed=(secrets.randbits(31) if request.seed is None else request.seed) % 2**63,
        stops=stops,
        logprobs=logprobs,
        guide=guides.guide_of(request.response_format),
        seeded=request.seed is not None,
        stream=bool(request.stream),
        usage=options.include_usage,
    )


def _or(value: Value | None, default: Value) -> Value:
    return default if value is None else value
