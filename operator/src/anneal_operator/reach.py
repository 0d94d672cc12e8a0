"""`python3 -m anneal_operator.reach listen|ask ADDRESS`: the two pods by which `anneal policies` sees whether policies hold.

One listens on two ports; a NetworkPolicy lets the first in and denies the second. The other asks for both: as long as the
first answers, what becomes of the second is the policy's doing. The standard library alone.
"""

import json
import socket
import sys
import time
from collections.abc import Callable

ALLOWED, DENIED = 8080, 8081
START = 60
"""Seconds in which the port that is let in must have answered."""
GRACE = 20
"""Seconds that an agent has to put a policy into force."""
TIMES = 3
"""Connections that must fail in a row: a single one may be lost."""
PATIENCE = 2.0
"""Seconds to wait for a connection: policies drop packets, they do not refuse."""

Connects = Callable[[int], bool]
"""Whether a connection to a port is made."""


def verdict(connects: Connects, wait: Callable[[float], None]) -> str:
    """Return `enforced` or `ignored`, or `unknown` where not even the port that is let in answers."""
    if not _answers(connects, wait):
        return "unknown"
    for _ in range(GRACE):
        if not any(connects(DENIED) for _ in range(TIMES)):
            return "enforced" if connects(ALLOWED) else "unknown"
        wait(1.0)
    return "ignored"


def _answers(connects: Connects, wait: Callable[[float], None]) -> bool:
    for _ in range(START):
        if connects(ALLOWED):
            return True
        wait(1.0)
    return False


def connector(address: str) -> Connects:
    """Return what tries the ports of an address."""

    def connects(port: int) -> bool:
        try:
            with socket.create_connection((address, port), PATIENCE):
                return True
        except OSError:
            return False

    return connects


def listen() -> None:
    """Accept connections on both ports until the process is ended; the kernel completes them, nobody need answer."""
    listeners = [socket.create_server(("", port), backlog=128) for port in (ALLOWED, DENIED)]
    while listeners:
        time.sleep(3600)


def main(arguments: list[str]) -> int:
    """Listen, or print what was found as a line of JSON."""
    match arguments:
        case ["listen"]:
            listen()
        case ["ask", address]:
            print(json.dumps({"policies": verdict(connector(address), time.sleep)}))
        case _:
            print("usage: python3 -m anneal_operator.reach listen | ask ADDRESS", file=sys.stderr)
            return 64
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
