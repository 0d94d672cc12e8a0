"""Kubernetes timestamps: UTC, whole seconds."""

from datetime import UTC, datetime


def stamp(moment: datetime) -> str:
    """Return `moment` as the API server writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse(text: str) -> datetime:
    """Return the moment that a timestamp of the API server names."""
    return datetime.fromisoformat(text)


def seconds_since(text: str, now: datetime) -> float:
    """Return the seconds from `text` to `now`."""
    return (now - parse(text)).total_seconds()
