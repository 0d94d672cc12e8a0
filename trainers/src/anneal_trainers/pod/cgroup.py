"""The container's memory as its cgroup counts it, for a person."""

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
FILES = (
    "memory.events",
    "memory.current",
    "memory.peak",
    "memory.max",
    "memory/memory.oom_control",
    "memory/memory.usage_in_bytes",
    "memory/memory.max_usage_in_bytes",
    "memory/memory.limit_in_bytes",
)
"""Of cgroup v2, then of v1; what there is depends on the kernel. In bytes, and counts of events."""


def memory() -> str:
    """Return the files there are, each line behind its file's name."""
    there = [(name, ROOT / name) for name in FILES if (ROOT / name).is_file()]
    return "".join(f"{name} {line}\n" for name, path in there for line in path.read_text().splitlines())
