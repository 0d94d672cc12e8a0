"""Why a stage ends before its work is done.

Exception
 ├── Refused    the user's input is wrong: exit 64, never tried again
 └── TryAgain   the surroundings failed (preempted, storage away): exit 75
"""


class StageError(Exception):
    """Ends a stage with a CamelCase reason for the condition and a message for a person."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Refused(StageError):
    """The user's input is wrong; the message names the field, the value and the remedy."""


class TryAgain(StageError):
    """The surroundings failed; the same stage may pass later."""
