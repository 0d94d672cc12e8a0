"""The gateway's own description of its HTTP API, made from the types that parse the requests."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from anneal_api.version import VERSION
from anneal_serving.gateway.requests import ChatRequest, CompletionRequest

_REFERENCE = "#/components/schemas/{model}"
_TEXT: dict[str, Any] = {"type": "string"}
_NUMBER: dict[str, Any] = {"type": "integer"}


def _object(required: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {**required, **more}, "required": list(required)}


def _optional(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_MODEL = _object({"id": _TEXT, "object": {"const": "model"}, "created": _NUMBER, "owned_by": _TEXT})
_USAGE = _object({"prompt_tokens": _NUMBER, "completion_tokens": _NUMBER, "total_tokens": _NUMBER})
_FINISH = {"enum": ["stop", "length"]}
_MESSAGE = _object({"role": {"const": "assistant"}, "content": _TEXT})


def _completion(kind: str, content: dict[str, Any]) -> dict[str, Any]:
    choice = _object(
        {"index": _NUMBER, **content, "finish_reason": _FINISH}, logprobs=_optional({"type": "object"})
    )
    head = {"id": _TEXT, "object": {"const": kind}, "created": _NUMBER, "model": _TEXT}
    return _object({**head, "choices": _array(choice), "usage": _USAGE})


_ERROR = _object(
    {"error": _object({"message": _TEXT, "type": _TEXT, "param": _optional(_TEXT), "code": _optional(_TEXT)})}
)
_RESPONSES = {
    "Model": _MODEL,
    "ModelList": _object({"object": {"const": "list"}, "data": _array(_MODEL)}),
    "ChatCompletion": _completion("chat.completion", {"message": _MESSAGE}),
    "Completion": _completion("text_completion", {"text": _TEXT}),
    "Error": _ERROR,
}
_ERRORS = {
    "400": "The request is wrong; `param` names the field.",
    "401": "The API key is missing or wrong.",
    "404": "The model is not served here.",
    "413": "The body is too large.",
    "429": "The queue is full, or the key's limit is reached; Retry-After says when to come back.",
    "500": "The engine or the gateway failed.",
    "502": "The replica was lost while it answered.",
    "503": "No replica is ready, or no slot came free in time.",
    "504": "The answer took too long.",
}


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REFERENCE.format(model=name)}}}


def _operation(identity: str, summary: str, answer: str, errors: list[str], **more: Any) -> dict[str, Any]:
    good = {"200": {"description": "OK", "content": _json(answer)}}
    bad = {code: {"description": _ERRORS[code], "content": _json("Error")} for code in errors}
    return {"operationId": identity, "summary": summary, "responses": {**good, **bad}, **more}


def _post(identity: str, summary: str, kind: type[BaseModel], answer: str) -> dict[str, Any]:
    body = {"required": True, "content": _json(kind.__name__)}
    found = _operation(identity, summary, answer, list(_ERRORS), requestBody=body)
    found["responses"]["200"]["content"]["text/event-stream"] = {"schema": _TEXT}
    return {"post": found}


def document() -> dict[str, Any]:
    """Return the description, OpenAPI 3.1."""
    kinds: list[type[BaseModel]] = [ChatRequest, CompletionRequest]
    _, schemas = models_json_schema([(kind, "validation") for kind in kinds], ref_template=_REFERENCE)
    name = {"name": "model", "in": "path", "required": True, "schema": _TEXT}
    gets = ["401", "503"]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Anneal gateway", "version": VERSION},
        "security": [{}, {"key": []}],
        "paths": {
            "/v1/models": {"get": _operation("listModels", "The model served here.", "ModelList", gets)},
            "/v1/models/{model}": {
                "get": _operation("getModel", "A model.", "Model", [*gets, "404"], parameters=[name])
            },
            "/v1/chat/completions": _post(
                "createChatCompletion", "Answer a chat.", ChatRequest, "ChatCompletion"
            ),
            "/v1/completions": _post("createCompletion", "Complete a text.", CompletionRequest, "Completion"),
        },
        "components": {
            "schemas": {**schemas["$defs"], **_RESPONSES},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


DOCUMENT = document()
