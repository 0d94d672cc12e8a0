"""What the API server may answer instead of an object."""


class ApiError(Exception):
    """The API server refused or failed; NotFound, AlreadyExists and Conflict are told apart below."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


class NotFound(ApiError):
    """There is no such object."""


class AlreadyExists(ApiError):
    """An object of that name is there already."""


class Conflict(ApiError):
    """The object has changed, or is another one of the same name."""


def api_error(status: int, reason: str, message: str) -> ApiError:
    """Return the error for an answer."""
    if status == 404:
        return NotFound(status, reason, message)
    if status == 409:
        kind = AlreadyExists if reason == "AlreadyExists" else Conflict
        return kind(status, reason, message)
    return ApiError(status, reason, message)
