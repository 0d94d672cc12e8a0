"""Errors a client of the gateway sees, in OpenAI's shape."""

from typing import Any


class ApiError(Exception):
    """A refused or failed request.

    Args:
        status: HTTP status.
        message: what is wrong and how to put it right.
        param: the field at fault.
        code: OpenAI's code, such as context_length_exceeded.
        retry_after: seconds after which trying again makes sense.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def kind(self) -> str:
        """OpenAI's name for this class of error."""
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"

    @property
    def headers(self) -> dict[str, str]:
        """Extra response headers."""
        retry = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return retry | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})
