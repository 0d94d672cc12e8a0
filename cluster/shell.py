"""Commands, progress lines and patience."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

STARTED = time.monotonic()


class CommandError(Exception):
    """A command failed; the message holds what it said."""


def run(*command: object, text: str | None = None, env: dict[str, str] | None = None) -> str:
    """Run a command and return what it printed."""
    words = [str(word) for word in command]
    done = subprocess.run(words, input=text, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandError(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def succeeds(*command: object) -> bool:
    """Whether a command returns 0; what it says does not matter."""
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def say(message: str) -> None:
    """A line of progress with the seconds since this program started."""
    print(f"[{time.monotonic() - STARTED:6.1f}s] {message}", flush=True)


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Say what starts when it may take long, and how long it took."""
    started = time.monotonic()
    say(f"{what} ...")
    yield
    say(f"{what}: {time.monotonic() - started:.1f}s")


def wait(what: str, ready: Callable[[], Any], seconds: float = 60, pause: float = 0.2) -> None:
    """Ask until the answer is true."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise CommandError(f"{what}: not within {seconds:.0f} s")
        time.sleep(pause)


def each(action: Callable[[Any], object], items: Sequence[Any]) -> None:
    """Do the same to several things at once; the first error is raised when all have ended."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=max(1, len(items))) as pool:
        for future in [pool.submit(action, item) for item in items]:
            future.result()
